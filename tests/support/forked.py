"""Processes that may be killed, forked from one that has imported the program: a fresh one takes seconds to do so."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.support.commands import Ended

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["pipelines.run", "pipelines.train", "wsi_stain.training.loop", "tests.support.forked"])


class Fork:
    """A function's call in a process of its own.

    Args:
        function: Importable.
        arguments: Its arguments, picklable.
        environment: Environment variables that differ from this process's.
    """

    def __init__(self, function: Callable[..., object], *arguments: object, **environment: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._streams = [Path(self._folder.name) / name for name in ("out", "err")]
        call = (function, arguments, {**os.environ, **environment}, os.getcwd(), self._streams)
        self._process = _FORKS.Process(target=_call, args=call)
        self._process.start()

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.is_alive()

    def wait(self) -> Ended:
        """Wait until it ends; its code is negative where a signal ended it."""
        self._process.join(300)
        assert self._process.exitcode is not None, "it does not end"
        with self._folder:
            out, err = (path.read_text() for path in self._streams)
        return Ended(self._process.exitcode, out, err)


def fork_command(*arguments: object, **environment: str) -> Fork:
    """Start a command line, as `wsi-stain ARGUMENTS` does."""
    return Fork(_run_command, [str(argument) for argument in arguments], **environment)


def _run_command(arguments: list[str]) -> None:
    from pipelines.cli import app  # torch stays out of processes that run no command

    sys.argv = ["wsi-stain", *arguments]
    app.main()


def _call(
    function: Callable[..., object],
    arguments: tuple[object, ...],
    environment: dict[str, str],
    directory: str,
    streams: list[Path],
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    for number, path in enumerate(streams, start=1):
        with open(path, "w") as file:
            os.dup2(file.fileno(), number)
    function(*arguments)
