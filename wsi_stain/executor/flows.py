"""Flows on an executor: which task goes next, and what becomes of its receipt. Knows no Dask.

Ordering: flows are served in the order given, each flow's receipts in the order of its tasks; nothing else is ordered.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from wsi_stain.executor.tasks import Executor, Flow, FlowResult, Pool, Receipt, Task

_AHEAD = 2
"""Slides whose tasks may wait for a full pool before another is begun: enough that no pool runs dry, and few enough
that tiles do not pile up on disk before the GPU."""

_WATCH_EVERY_S = 5.0

_Owners: TypeAlias = dict[int, tuple[str, Task[Any], int]]
"""Of each task in flight, by its ticket: the key of its flow, the task, and its place among the flow's tasks."""


@dataclass
class _FlowState:
    """A flow under way: tasks not yet submitted, receipts that came back, and how many are awaited."""

    flow: Flow[Any]
    start_time: float = 0.0
    is_started: bool = False
    waiting: deque[tuple[int, Task[Any]]] = field(default_factory=deque)
    receipts: list[Receipt | None] = field(default_factory=list)
    in_flight: int = 0
    failure: Exception | None = None

    @property
    def pool(self) -> Pool:
        """Pool of the first task that waits."""
        return self.waiting[0][1].pool

    def fail(self, error: Exception) -> None:
        """Keep the step's first error and drop what was not submitted yet."""
        self.failure = self.failure or error
        self.waiting.clear()


def run_flows(
    executor: Executor,
    flows: Mapping[str, Flow[Any]],
    on_tasks: Callable[[str, list[Task[Any]]], None] = lambda key, tasks: None,
    on_done: Callable[[str, Task[Any], Receipt], None] = lambda key, task, receipt: None,
    on_wait: Callable[[str, Task[Any], float], None] = lambda key, task, seconds: None,
    may_start: Callable[[bool], bool] = lambda is_idle: True,
) -> Iterator[FlowResult]:
    """Run flows side by side and yield each one's result as it ends.

    Args:
        executor: Where the tasks run.
        flows: A flow for each key (a slide's id), served in this order.
        on_tasks: Called with a flow's key and the tasks it just asked for.
        on_done: Called with a flow's key, each of its tasks that ended well, and the receipt.
        on_wait: Called every few seconds, by another thread, with the task that has run the longest: the key of its
            flow, the task, and for how many seconds.
        may_start: Asked before another flow is begun, with whether none is under way; then it must say yes in the end.

    Yields:
        A FlowResult per flow. When a task fails, the flow's other tasks of that step are let run or dropped, and the
        error is raised inside the flow, which may handle it.

    Raises:
        WsiStainError: The executor cannot go on.
    """
    owners: _Owners = {}
    with _watch(executor, owners, on_wait):
        yield from _run_flows(executor, flows, owners, on_tasks, on_done, may_start)


def _run_flows(
    executor: Executor,
    flows: Mapping[str, Flow[Any]],
    owners: _Owners,
    on_tasks: Callable[[str, list[Task[Any]]], None],
    on_done: Callable[[str, Task[Any], Receipt], None],
    may_start: Callable[[bool], bool],
) -> Iterator[FlowResult]:
    """Do `run_flows`; `owners` is kept up to date."""
    not_started, running = deque(flows.items()), dict[str, _FlowState]()
    tickets = itertools.count()
    while not_started or running:
        # Flows already begun come before another is begun: their slides end sooner and hold less on disk.
        if (key := _next_ready(running, executor)) is not None:
            index, task = running[key].waiting.popleft()
            running[key].in_flight += 1
            ticket = next(tickets)
            owners[ticket] = (key, task, index)
            executor.submit(ticket, task)
            continue
        if not_started and _may_start(running, executor) and may_start(not running):
            key, flow = not_started.popleft()
            running[key] = _FlowState(flow)
        else:
            done, outcome = executor.wait_for_next()
            key, task, index = owners.pop(done)
            if isinstance(outcome, Exception):
                running[key].fail(outcome)
            else:
                running[key].receipts[index] = outcome
                on_done(key, task, outcome)
            running[key].in_flight -= 1
        state = running[key]
        if not state.in_flight and not state.waiting and (ended := _advance(key, state, on_tasks)) is not None:
            del running[key]
            yield ended


@contextmanager
def _watch(executor: Executor, owners: _Owners, on_wait: Callable[[str, Task[Any], float], None]) -> Iterator[None]:
    """Report the task that has run the longest, every few seconds: the thread of the flows may wait for it."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_WATCH_EVERY_S):
            ages = {ticket: seconds for ticket, seconds in executor.running_s().items() if ticket in owners}
            oldest = max(ages, key=lambda ticket: ages[ticket], default=None)
            if oldest is not None and (owner := owners.get(oldest)):
                on_wait(owner[0], owner[1], ages[oldest])

    thread = threading.Thread(target=watch, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _next_ready(running: Mapping[str, _FlowState], executor: Executor) -> str | None:
    """Find the first flow with a task whose pool has room for it."""
    return next((key for key, state in running.items() if state.waiting and executor.has_room(state.pool)), None)


def _may_start(running: Mapping[str, _FlowState], executor: Executor) -> bool:
    """Check whether another flow should be begun: some pool has room, and few flows wait for the other."""
    waiting = sum(bool(state.waiting) for state in running.values())
    return waiting < _AHEAD and (executor.has_room("cpu") or executor.has_room("gpu"))


def _advance(key: str, state: _FlowState, on_tasks: Callable[[str, list[Task[Any]]], None]) -> FlowResult | None:
    """Hand a flow its receipts (or its failure) until it asks for tasks again or ends."""
    while True:
        try:
            tasks = _resume(state)
        except StopIteration as end:
            return FlowResult(key, end.value, None, time.monotonic() - state.start_time)
        except Exception as error:
            return FlowResult(key, None, error, time.monotonic() - state.start_time)
        state.receipts = [None] * len(tasks)
        state.waiting = deque(enumerate(tasks))
        on_tasks(key, tasks)
        if tasks:
            return None


def _resume(state: _FlowState) -> list[Task[Any]]:
    """Start a flow, raise its failure inside it, or send it the receipts it waits for."""
    if not state.is_started:
        state.is_started, state.start_time = True, time.monotonic()
        return next(state.flow)
    if state.failure is not None:
        failure, state.failure = state.failure, None
        return state.flow.throw(failure)
    return state.flow.send([receipt for receipt in state.receipts if receipt is not None])
