"""What a forked process must not share with its parent: locks that a thread may hold, files whose place both move.

A process that forks while another of its threads holds a lock leaves the child a lock that nobody will release; and a
file that both have open has one place to read from. Knows no slides.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from weakref import WeakSet


class ForkAware(ABC):
    """Something that is told when it finds itself in a forked process. Subclasses call `watch_forks` once ready."""

    @abstractmethod
    def after_fork(self) -> None:
        """Make locks anew, and forget open files without closing them. Called in the child, before all else there."""

    def watch_forks(self) -> None:
        """From now on `after_fork` is called in every forked process, for as long as the object lives."""
        _WATCHING.add(self)


_WATCHING: WeakSet[ForkAware] = WeakSet()


def _tell_all() -> None:
    for each in list(_WATCHING):
        each.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tell_all)
