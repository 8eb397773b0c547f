"""Progress of a run: bars with ETA on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from pipelines.shared.messages import describe_duration, print_line, print_warning
from wsi_stain.core.geometry import TILE
from wsi_stain.core.text import escape_unprintable
from wsi_stain.executor import Receipt, Task

_PLAIN_EVERY_S = 10.0
_LONG_S = 60.0
"""A task that runs for longer is named; where lines are printed, again whenever it has run twice as long."""
_BY_PIXELS = ("tile", "normalize")
"""Stages whose rate is shown in pixels: their receipts say how many tiles they did."""


class Progress(AbstractContextManager["Progress"]):
    """Counts of finished work by stage."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._terminal = console.is_terminal
        self._bars = Bars(
            TextColumn("{task.description:>10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=console,
            disable=not self._terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._tiles: Counter[str] = Counter()
        self._last_line = time.monotonic()
        self._named: tuple[str, str, float] | None = None

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def expect(self, stage: str, count: int) -> None:
        """Announce `count` more pieces of work of a stage."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=0, note="")
        task = self._bars.tasks[self._tasks[stage]]
        self._bars.update(task.id, total=(task.total or 0) + count)

    def advance(self, stage: str, count: int = 1, note: str = "") -> None:
        """Record `count` finished pieces of a stage; `note` says something about the last."""
        self._bars.update(self._tasks[stage], advance=count, note=escape_unprintable(note))
        if not self._terminal and time.monotonic() - self._last_line > _PLAIN_EVERY_S:
            self._print_status()

    def on_tasks(self, key: str, tasks: list[Task[Any]]) -> None:
        """Announce the tasks that a flow asked for; a callback of `run_flows`."""
        for stage, count in Counter(task.stage for task in tasks).items():
            self.expect(stage, count)

    def on_done(self, key: str, task: Task[Any], receipt: Receipt) -> None:
        """Record a task that succeeded, with its rate where the receipt counts tiles; a callback of `run_flows`."""
        self._tiles[task.stage] += receipt.get("tiles", 0)
        rate = self._megapixels_per_second(task.stage)
        self.advance(task.stage, note=f"{rate:.1f} Mpx/s, {key}" if rate else key)

    def on_wait(self, key: str, task: Task[Any], seconds: float) -> None:
        """Name the task that has run the longest, if that is long; a callback of `run_flows`, from its own thread."""
        if seconds < _LONG_S:
            return
        begun = time.strftime("%H:%M:%S", time.localtime(time.time() - seconds))
        text = f"waiting for {key}: {task.stage} since {begun} ({describe_duration(seconds)})"
        if self._terminal:
            self._bars.update(self._tasks[task.stage], note=escape_unprintable(text))
        elif self._named is None or self._named[:2] != (key, task.stage) or seconds >= 2 * self._named[2]:
            self._named = key, task.stage, seconds
            self.report(text)

    def _megapixels_per_second(self, stage: str) -> float:
        """Return how much tissue a stage got through since it began."""
        seconds = self._bars.tasks[self._tasks[stage]].elapsed or 0.0
        return self._tiles[stage] * TILE**2 / 1e6 / seconds if seconds and stage in _BY_PIXELS else 0.0

    def report(self, text: str) -> None:
        """Print a line above the bars."""
        print_line(self.console, text)

    def warn(self, text: str) -> None:
        """Print what must not be overlooked; nothing where there is nothing."""
        if text:
            print_warning(self.console, text)

    def _print_status(self) -> None:
        self._last_line = time.monotonic()
        open_tasks = [task for task in self._bars.tasks if not task.finished]
        parts = [
            f"{task.description} {task.completed:.0f}/{task.total:.0f}"
            + (f" ETA {timedelta(seconds=round(task.time_remaining))}" if task.time_remaining is not None else "")
            + (f" ({task.fields['note']})" if task.fields["note"] else "")
            for task in open_tasks
        ]
        if parts:
            self.report("  ".join(parts))
