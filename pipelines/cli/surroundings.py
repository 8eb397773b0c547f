"""A command and what is around it: encodings, signals, a stdout that takes no text, limits."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.shared.messages import describe_error
from wsi_stain.core.errors import WsiStainError


def stop_on_signals() -> None:
    """Let the signals by which schedulers and lost terminals end a command stop it as Ctrl-C does.

    A signal that is ignored stays so, as below `nohup`.
    """
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


@contextmanager
def printed() -> Iterator[None]:
    """See to it that what was printed has arrived before the command ends; Python would fail at it afterwards.

    Raises:
        OSError: It cannot, other than that nobody reads it.
    """
    try:
        yield
    finally:
        if sys.stdout is not None:
            try:
                sys.stdout.flush()
            except OSError as error:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                if not isinstance(error, BrokenPipeError):
                    raise


def refused_error(error: Exception) -> WsiStainError:
    """Say what this machine or a limit of it refused, with no traceback."""
    return WsiStainError(
        f"This machine refused something that is needed: {describe_error(error)}",
        "Look at the free space, the memory and the limits there (ulimit -a); wsi-stain --debug says where it was",
    )


def take_all_names() -> None:
    """Be ready for names of any letters: begin again in UTF-8, and escape what the terminal's encoding lacks.

    In a locale of another encoding Python can neither name nor print all files. And in no columns nothing is printed.
    """
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 no shell is wanted
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it was closed before the start
            stream.reconfigure(errors="backslashreplace")
    if not os.environ.get("COLUMNS", "1").strip("0 "):
        del os.environ["COLUMNS"]
