"""Count the package's files that are entered while one block is tiled, normalized and stitched.

    nox -s bench -- files_entered SLIDE CHECKPOINT --mode lut

The slide is run as the command does it, in one process, with a profiler that notes each function of wsi_stain and
pipelines that is called below `tile_block`, `normalize_block` and `stitch_slide`. A file holds pixels where one of its
functions had, when it returned, an 8-bit array or a tensor of at least a tile, or as many bytes. Callers are the files
above these three.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from pipelines.cli import app
from wsi_stain.core.geometry import TILE
from wsi_stain.normalize import tasks as normalize_tasks
from wsi_stain.pyramid import stitch
from wsi_stain.tiling import block

_ROOT = Path(__file__).parent.parent
_PACKAGES = tuple(f"{_ROOT}/{name}/" for name in ("wsi_stain", "pipelines"))
_COMPRESSED = 20_000
"""Bytes that count as pixels: a JPEG tile of dense tissue has as many."""

STAGES: list[tuple[Any, str]] = [
    (block, "tile_block"),
    (normalize_tasks, "normalize_block"),
    (stitch, "stitch_slide"),
]


class Files:
    """Files entered so far, by their path below the repository's root."""

    def __init__(self) -> None:
        self.entered: set[str] = set()
        self.with_pixels: set[str] = set()
        self.callers: set[str] = set()
        self._begun = threading.local()
        self._stage_runs = False

    def run_stage(self, function: Callable[[Any], Any], task: Any) -> Any:
        """Run a stage's function, noting what it enters, in threads that it starts too."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            self.callers |= {name} if (name := _own_name(frame)) else set()
            frame = frame.f_back
        self._stage_runs, self._begun.within = True, True
        try:
            return function(task)
        finally:
            self._stage_runs, self._begun.within = False, False

    def note(self, frame: FrameType, event: str, _: object) -> None:
        """Note a call or a return; the profiler's own callback."""
        if not hasattr(self._begun, "within"):
            self._begun.within = self._stage_runs  # a thread that a stage has started, or one from before
        name = _own_name(frame)
        if name is None or not (self._stage_runs and self._begun.within):
            return
        self.entered.add(name)
        if event == "return" and any(map(_has_pixels, frame.f_locals.values())):
            self.with_pixels.add(name)


def _own_name(frame: FrameType) -> str | None:
    file = frame.f_code.co_filename
    return str(Path(file).relative_to(_ROOT)) if file.startswith(_PACKAGES) else None


def _has_pixels(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype == np.uint8 and value.size >= TILE**2
    if isinstance(value, torch.Tensor):
        return value.ndim >= 3 and value.numel() >= TILE**2
    return isinstance(value, bytes | bytearray | memoryview) and len(value) > _COMPRESSED


def watch(files: Files) -> None:
    """Put the profiler around the three stages, wherever their functions were imported to."""
    for home, name in STAGES:
        original = getattr(home, name)

        def run_noted(task: Any, function: Callable[[Any], Any] = original) -> Any:
            return files.run_stage(function, task)

        for module in [each for each in sys.modules.values() if getattr(each, name, None) is original]:
            setattr(module, name, run_noted)
    threading.setprofile(files.note)
    sys.setprofile(files.note)


def main() -> None:
    """Run one slide, print the numbers and the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--mode", default="lut")
    asked, files = parser.parse_args(), Files()
    with tempfile.TemporaryDirectory() as folder:
        where = ["--checkpoint", str(asked.checkpoint), "--out", folder, "--workers", "0", "--mode", asked.mode]
        watch(files)
        try:
            app.app(["run", str(asked.slide), *where])
        except SystemExit as ended:
            print("exit code", ended.code)
        sys.setprofile(None)
    for name in sorted(files.entered):
        print(f"{'pixels' if name in files.with_pixels else '      '}  {name}")
    print("callers:", *sorted(files.callers - files.entered))
    above = len(files.entered | files.callers)
    print(f"{len(files.entered)} files entered, {len(files.with_pixels)} hold pixels, {above} with callers")


if __name__ == "__main__":
    main()
