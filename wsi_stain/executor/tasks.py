"""What runs, and what runs it: tasks, flows of tasks, and the face that all executors share."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

Receipt: TypeAlias = dict[str, Any]

Pool = Literal["cpu", "gpu"]
"""Workers come in two pools: `gpu` holds those that compute on a GPU. Where there is no GPU, all are one."""

_GPU_STAGES = frozenset({"prepare", "normalize", "score", "show"})
"""Those that run the generator: of a normalization, and of an evaluation."""


@dataclass(frozen=True)
class Task:
    """One call on a worker: `function(argument)`, both picklable, idempotent by its receipt."""

    function: Callable[[Any], Receipt]
    argument: Any
    stage: str
    """What the task does, for the progress display: survey, tile, prepare, normalize, stitch, ..."""

    @property
    def pool(self) -> Pool:
        """Which workers it is for: the stages that run the generator go to those with a GPU."""
        return "gpu" if self.stage in _GPU_STAGES else "cpu"


Flow: TypeAlias = Generator[list[Task], list[Receipt], Any]


def single_task(task: Task) -> Flow:
    """A flow of one task; its result is the task's receipt."""
    (receipt,) = yield [task]
    return receipt


@dataclass(frozen=True)
class FlowResult:
    """How one flow ended: with a value, or with the error that ended it."""

    key: str
    value: Any
    error: Exception | None
    seconds: float


class Executor(Protocol):
    """Runs tasks. `submit` never blocks; `completed` waits for one result."""

    def has_room(self, pool: Pool) -> bool:
        """Whether a pool should be given another task now: few wait at the workers, the others at home."""

    def submit(self, ticket: int, task: Task) -> None:
        """Start a task; its result comes back under `ticket`."""

    def wait_for_next(self) -> tuple[int, Receipt | Exception]:
        """The next finished task's ticket, with its receipt or the exception that ended it.

        Raises:
            WsiStainError: No task can end any more: there are no workers, or the scheduler is lost.
        """
