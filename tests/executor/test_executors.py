"""Flows on the serial executor and on a real Dask cluster of several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wsi_stain.core.errors import SlideError, WsiStainError
from wsi_stain.executor import DaskExecutor, ExecutorConfig, Flow, Pool, SerialExecutor, Task, open_executor, run_flows


def double(value: int) -> dict[str, Any]:
    return {"value": 2 * value, "pid": os.getpid()}


def refuse(value: int) -> dict[str, Any]:
    raise SlideError(f"slide {value} is bad", "Leave it out")


def crash(value: int) -> dict[str, Any]:
    raise ZeroDivisionError(f"bug at {value}")


def die_once(marker: str) -> dict[str, Any]:
    path = Path(marker)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), 9)
    return {"survived": True}


def summing_flow(values: list[int]) -> Flow:
    receipts = yield [Task(double, value, "double") for value in values]
    more = yield [Task(double, sum(receipt["value"] for receipt in receipts), "double")]
    return more[0]["value"]


def failing_flow(function: Any) -> Flow:
    yield [Task(double, 1, "double"), Task(function, 7, "fail"), Task(double, 2, "double")]
    raise AssertionError("a failed step must not go on")


def forgiving_flow() -> Flow:
    try:
        yield [Task(refuse, 1, "fail")]
    except SlideError as error:
        return str(error)


def empty_flow() -> Flow:
    receipts = yield []
    return len(receipts)


@pytest.fixture(scope="module", params=["serial", "dask"])
def executor(request: pytest.FixtureRequest) -> Iterator[SerialExecutor | DaskExecutor]:
    with open_executor(ExecutorConfig(workers=0 if request.param == "serial" else 2)) as opened:
        yield opened


def test_flows_end_with_their_values_whatever_the_order(executor: SerialExecutor | DaskExecutor) -> None:
    flows = {str(n): summing_flow(list(range(n))) for n in range(1, 12)}
    results = {result.key: result for result in run_flows(executor, flows)}
    assert {key: result.value for key, result in results.items()} == {str(n): 2 * n * (n - 1) for n in range(1, 12)}
    assert all(result.error is None for result in results.values())


def test_a_failing_flow_takes_no_other_down(executor: SerialExecutor | DaskExecutor) -> None:
    flows = {"bad": failing_flow(refuse), "bug": failing_flow(crash), "good": summing_flow([1, 2, 3])}
    results = {result.key: result for result in run_flows(executor, flows)}
    assert isinstance(results["bad"].error, SlideError)
    assert results["bad"].error.remedy == "Leave it out"
    assert isinstance(results["bug"].error, ZeroDivisionError)
    assert results["good"].value == 24


def test_a_flow_may_handle_its_failure_and_may_ask_for_nothing(executor: SerialExecutor | DaskExecutor) -> None:
    results = {r.key: r.value for r in run_flows(executor, {"kind": forgiving_flow(), "empty": empty_flow()})}
    assert results == {"kind": "slide 1 is bad. Leave it out", "empty": 0}


def test_progress_hooks_see_every_task(executor: SerialExecutor | DaskExecutor) -> None:
    asked: list[int] = []
    done: list[str] = []
    flows = {"a": summing_flow([1, 2]), "b": summing_flow([3])}
    list(
        run_flows(
            executor, flows, lambda key, tasks: asked.append(len(tasks)), lambda key, task, receipt: done.append(key)
        )
    )
    assert sum(asked) == len(done) == 5


def test_window_bounds_the_tasks_in_flight() -> None:
    class Counting(SerialExecutor):
        deepest = 0

        def has_room(self, pool: Pool) -> bool:
            return len(self._queue) < 3

        def submit(self, ticket: int, task: Task) -> None:
            super().submit(ticket, task)
            self.deepest = max(self.deepest, len(self._queue))

    with Counting() as counting:
        list(run_flows(counting, {str(n): summing_flow(list(range(20))) for n in range(5)}))
        assert counting.deepest == 3


def test_a_killed_worker_costs_a_retry_not_the_slide(tmp_path: Path) -> None:
    def flow() -> Flow:
        receipts = yield [Task(die_once, str(tmp_path / "died"), "die")]
        return receipts[0]["survived"]

    with DaskExecutor(ExecutorConfig(workers=2)) as dask:
        (result,) = run_flows(dask, {"slide": flow()})
    assert result.error is None
    assert result.value is True


def test_serial_and_dask_use_the_processes_they_promise(caplog: pytest.LogCaptureFixture) -> None:
    def pids(executor: SerialExecutor | DaskExecutor) -> set[int]:
        def flow() -> Flow:
            receipts = yield [Task(double, value, "double") for value in range(40)]
            return {receipt["pid"] for receipt in receipts}

        (result,) = run_flows(executor, {"slide": flow()})
        found: set[int] = result.value
        return found

    with (
        caplog.at_level("DEBUG", "wsi_stain"),
        open_executor(ExecutorConfig(workers=0)) as serial,
        open_executor(ExecutorConfig(workers=2)) as dask,
    ):
        assert caplog.text.count("dashboard: http://127.0.0.1:") == 1
        assert pids(serial) == {os.getpid()}
        assert os.getpid() not in pids(dask)


def test_a_scheduler_without_workers_is_a_clear_error() -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        config = ExecutorConfig(scheduler=cluster.scheduler_address, worker_timeout_s=1.0)
        with pytest.raises(WsiStainError, match="no worker for 1 s"):
            DaskExecutor(config)
