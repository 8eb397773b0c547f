"""Room on the disk that outputs go to: what slides need of it, and whether another may be begun while it is full."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from pipelines.shared.config import RunConfig
from pipelines.shared.formats import estimate_bytes
from pipelines.shared.messages import describe_duration, describe_size
from wsi_stain.core.errors import NoSpaceError
from wsi_stain.core.storage import existing_parent
from wsi_stain.executor import Flow, Receipt, Task
from wsi_stain.formats.zarr_shard import CODECS, TILE_BYTES

R = TypeVar("R")

_POLL_S = 2.0
_AT_LEAST = 2**24
"""Bytes that must have become free before another slide is begun, where it is not known what slides need."""

_RESERVE = 2**20

_REMEDY = "Free as much there, or choose another disk, and run the same command again: what is finished stays"


class DiskSpace:
    """Room for the slides of a run.

    When one fails for want of room, no other is begun until there is as much as that one needs. Slides under way go on,
    since their end frees what they hold. Where none is under way, it waits for a while, then gives up those left.

    Args:
        directory: Where the outputs go.
        tile_bytes: About what a tile takes until its slide is finished.
        wait_s: How long to wait for room, seconds, in all.
        report: Prints a line.
    """

    def __init__(self, directory: Path, tile_bytes: float, wait_s: float, report: Callable[[str], None]) -> None:
        self._directory, self._tile_bytes, self._left_s, self._report = directory, tile_bytes, wait_s, report
        self._needs: dict[str, float] = {}
        self._required = 0.0

    @property
    def free(self) -> int:
        """Bytes that are free."""
        return shutil.disk_usage(existing_parent(self._directory)).free

    def expect(self, slide_id: str, tiles: int) -> None:
        """Note how many tiles a slide has, and report where there is no room for it."""
        if slide_id in self._needs:
            return
        self._needs[slide_id] = tiles * self._tile_bytes
        if self._needs[slide_id] > self.free:
            self._report(f"{slide_id}: {self._describe(slide_id)}")

    def on_done(self, slide_id: str, task: Task[Any], receipt: Receipt) -> None:
        """Note what a survey found; a callback of `run_flows`."""
        if "kept_tiles" in receipt:
            self.expect(slide_id, receipt["kept_tiles"])

    @contextmanager
    def reserve(self) -> Iterator[None]:
        """Keep room for the summary while slides are done: a full disk must not take away what became of them."""
        place = self._directory / ".reserve.partial"
        with suppress(OSError):
            place.write_bytes(bytes(_RESERVE))
        try:
            yield
        finally:
            with suppress(OSError):
                place.unlink()

    def guard(self, slide_id: str, flow: Flow[R]) -> Flow[R]:
        """Run a slide's flow unless the disk is full; raises NoSpaceError that says what is needed and what is free."""
        if self._required:
            raise NoSpaceError(f"Not begun: {self._describe()}", _REMEDY)
        try:
            return (yield from flow)
        except NoSpaceError as error:
            self._required = self._needs.get(slide_id) or self.free + _AT_LEAST
            problem = f"{error.problem}: {self._describe(slide_id)}"
            self._report(f"The disk is full. No other slide is begun before {describe_size(self._required)} are free")
            raise NoSpaceError(problem, _REMEDY) from error

    def may_start(self, is_idle: bool) -> bool:
        """Check whether another slide may be begun; a callback of `run_flows`.

        Args:
            is_idle: Whether none is under way, so that only somebody else can make room.
        """
        if not self._required:
            return True
        if is_idle and self._left_s > 0:
            self._report(f"Waiting for room for at most {describe_duration(self._left_s)}: {self._describe()}")
            while self.free < self._required and self._left_s > 0:
                time.sleep(min(_POLL_S, self._left_s))
                self._left_s -= _POLL_S
        if self.free >= self._required:
            self._report(f"There is room again: {describe_size(self.free)}")
            self._required = 0.0
        return is_idle or not self._required

    def _describe(self, slide_id: str = "") -> str:
        need = self._needs.get(slide_id, self._required)
        needs = f"about {describe_size(need)} are needed" if need else "it is not known how much is needed"
        return f"{needs}, {describe_size(self.free)} are free in {self._directory}"


def describe_shortage(directory: Path, needed: float) -> str:
    """Warn where a disk has less room than is needed, bytes; empty where it has enough."""
    free = shutil.disk_usage(existing_parent(directory)).free
    if needed <= free:
        return ""
    return f"about {describe_size(needed)} are needed, {describe_size(free)} are free in {directory}"


def stored_tile_bytes(config: RunConfig) -> float:
    """Return about what a tile takes in a store, bytes; less where the slide's own tiles are stored."""
    codec = config.tiling.codec
    return TILE_BYTES * CODECS["lossless" if codec == "auto" else codec].share


def run_tile_bytes(config: RunConfig) -> float:
    """Return about what a tile takes until its slide is finished, bytes: in the store, in blocks, in pyramids."""
    return (stored_tile_bytes(config) if config.stores_tiles else 0) + 2 * _pyramid_tile_bytes(config)


def plan_bytes(tiles: Sequence[int], config: RunConfig) -> float:
    """Return about what a run takes at its fullest, bytes, by the tiles of each slide: all pyramids, one in work."""
    kept = stored_tile_bytes(config) if config.keep_tiles else 0
    return sum(tiles) * (_pyramid_tile_bytes(config) + kept) + max(tiles, default=0) * run_tile_bytes(config)


def _pyramid_tile_bytes(config: RunConfig) -> float:
    return sum(estimate_bytes(kind, tiles=1, slides=0) for kind in config.formats)
