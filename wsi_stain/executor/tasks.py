"""Tasks, flows of tasks, and the protocol of executors."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

Receipt: TypeAlias = Mapping[str, Any]
"""Any task's result, as an executor sees it; each task's own function says which."""

R = TypeVar("R")
"""What a task or a flow gives."""

Pool = Literal["cpu", "gpu"]
"""Workers come in two pools: `gpu` holds those that compute on a GPU. Where there is no GPU, all are one."""

OPENING, SURVEYING, WHOLE_SLIDE = 0.2, 4.0, 100.0
"""Work, in blocks, of a task that opens a slide and reads no pixels; that looks at all of it on its coarsest level, or
has to read the finest for want of one; and that reads all of a slide whose size is not known."""


@dataclass(frozen=True)
class Task(Generic[R]):
    """One call on a worker: `function(argument)`, both picklable, idempotent by its receipt.

    Attributes:
        function: The function; it gives a small receipt.
        argument: Its argument.
        stage: What the task does, for the progress display: survey, tile, prepare, normalize, stitch, ...
        work: How much work it may be at most, about, in blocks of 4096 x 4096 px: its time limit grows with it.
        pool: Workers that it is for: `gpu` where it runs the generator, and nowhere else.
    """

    function: Callable[[Any], R]
    argument: Any
    stage: str
    work: float = 1.0
    pool: Pool = "cpu"


Flow: TypeAlias = Generator[list[Task[Any]], list[Any], R]
"""Work on one slide: yields lists of tasks, is sent the lists of their receipts, and returns its result."""


def single_task(task: Task[R]) -> Flow[R]:
    """Run one task; the flow's result is the task's receipt."""
    (receipt,) = yield [task]
    result: R = receipt
    return result


def run_tasks(tasks: Sequence[Task[R]]) -> Flow[list[R]]:
    """Run tasks side by side; the flow's result is their receipts, in the order of the tasks."""
    receipts: list[R] = yield list(tasks)
    return receipts


@dataclass(frozen=True)
class FlowResult:
    """End of one flow: its value, or the error that ended it."""

    key: str
    value: Any
    error: Exception | None
    seconds: float


class Executor(Protocol):
    """Runs tasks. `submit` never blocks; `wait_for_next` waits for one result."""

    def has_room(self, pool: Pool) -> bool:
        """Check whether a pool should be given another task now: few wait at the workers, the others here."""

    def submit(self, ticket: int, task: Task[Any]) -> None:
        """Start a task; its result comes back under `ticket`."""

    def wait_for_next(self) -> tuple[int, Any | Exception]:
        """Wait for the next finished task: its ticket, with its receipt or the exception that ended it.

        Raises:
            WsiStainError: No task can end any more: there are no workers, or the scheduler is lost.
        """

    def running_s(self) -> Mapping[int, float]:
        """Return how long each task has run that a worker has begun, by its ticket, seconds. Any thread may ask."""
