"""Every error a user can meet.

    WsiStainError
    ├── ConfigError         a configuration or a command line that makes no sense
    ├── SlideError          a slide that cannot be used
    │   ├── MppError        no resolution, or an absurd one
    │   ├── UnreadableError a region whose pixels cannot be decoded
    │   ├── NoTissueError   nothing to normalize
    │   └── StainError      not H&E, or too little of it to measure
    ├── StoreError          a tile store that is damaged, incomplete or foreign
    ├── CheckpointError     a checkpoint that is damaged or does not fit
    ├── TrainingError       training cannot go on
    │   └── InterruptedTrainingError   it was asked to stop, and can be taken up again
    ├── TimeLimitError      a task ran for longer than its work explains
    ├── DeviceMemoryError   the GPU's memory does not suffice
    ├── BrokenDeviceError   the GPU failed, and this process can use it no more
    └── OutputError         an output that cannot be written or does not hold
        ├── NoSpaceError    the disk is full
        └── LeaseError      another run owns the output directory

A message says what was expected, what was found, and what to do about it.
"""

from __future__ import annotations


class WsiStainError(Exception):
    """Base of all errors raised on purpose.

    Args:
        problem: What was expected and what was found, one or two sentences without a full stop at the end.
        remedy: What the user can do about it, in the imperative.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}. {self.remedy}".strip() if self.remedy else self.problem


class ConfigError(WsiStainError):
    """A configuration or a command line that makes no sense."""


class SlideError(WsiStainError):
    """A slide that cannot be used."""


class MppError(SlideError):
    """A slide without a resolution, or with an absurd one."""


class UnreadableError(SlideError):
    """A region of a slide whose pixels cannot be decoded, though the slide opens."""


class NoTissueError(SlideError):
    """A slide on which no tissue was found."""


class StainError(SlideError):
    """A slide that is not H&E, or has too little tissue to measure its stain."""


class StoreError(WsiStainError):
    """A tile store that is damaged, incomplete or foreign."""


class CheckpointError(WsiStainError):
    """A checkpoint that is damaged or does not fit the work asked of it."""


class TrainingError(WsiStainError):
    """Training cannot go on."""


class InterruptedTrainingError(TrainingError):
    """Training was asked to stop; its state is saved."""


class TimeLimitError(WsiStainError):
    """A task ran for longer than its work explains."""


class DeviceMemoryError(WsiStainError):
    """The GPU's memory does not suffice for the shape that was asked for."""


class BrokenDeviceError(WsiStainError):
    """The GPU failed in a way that leaves it useless to this process; another process may use it."""


class OutputError(WsiStainError):
    """An output that cannot be written, or that does not hold what its receipt says."""


class NoSpaceError(OutputError):
    """The disk that an output goes to is full."""


class LeaseError(OutputError):
    """Another run owns the output directory."""
