"""Every slide is opened before any work: what cannot be used is known, and said, at once."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pipelines.shared.preflight import Preflight, open_all
from pipelines.shared.progress import Progress
from tests.support.commands import Run
from tests.support.made_checkpoint import write_untrained
from wsi_stain.core.errors import MppError, SlideError
from wsi_stain.executor.serial import SerialExecutor
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.synthetic.slide import write_slide
from wsi_stain.tiling.config import TilingConfig


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[SlideSource]:
    """A sound slide, one without a resolution, and a file that is no slide."""
    folder = tmp_path_factory.mktemp("slides")
    pixels = np.full((300, 400, 3), 240, np.uint8)
    write_slide(folder / "sound.svs", pixels, 0.5, 20, style="svs")
    write_slide(folder / "unknown.tif", pixels, None, style="tiff")
    (folder / "text.svs").write_text("no slide")
    names = ("sound.svs", "unknown.tif", "text.svs")
    return [SlideSource(path=folder / name, slide_id=name[:-4], relative=name) for name in names]


def preflight(sources: list[SlideSource], *reported_elsewhere: str) -> tuple[Preflight, str]:
    printed = io.StringIO()
    with Progress(Console(file=printed, width=300)) as progress:
        found = open_all(SerialExecutor(), sources, TilingConfig(), progress, reported_elsewhere)
    return found, printed.getvalue()


def test_what_cannot_be_used_is_told_from_what_can(sources: list[SlideSource]) -> None:
    found, printed = preflight(sources)
    assert list(found.scanners) == ["sound"]
    assert isinstance(found.unusable["unknown"], MppError) and isinstance(found.unusable["text"], SlideError)
    assert "unknown.tif: " in printed and "--slide-mpp" in printed and "text.svs: " in printed
    assert "sound.svs: " not in printed


def test_a_resolution_that_the_checkpoint_does_not_know_is_refused_before_any_work(
    sources: list[SlideSource], tmp_path: Path, wsi_stain: Run
) -> None:
    """They were tiled and measured first, and a dry run called them ok."""
    checkpoint, out = write_untrained(tmp_path / "c.safetensors", mpp=0.25), tmp_path / "out"
    command = ("run", sources[0].path, "--checkpoint", checkpoint, "--out", out, "-j", 0)
    for ended in (wsi_stain(*command, "--dry-run"), wsi_stain(*command)):
        assert ended.code == 3 and "works at 0.25 um/px" in " ".join((ended.out + ended.err).split())
    assert not list((out / "work").rglob("*.safetensors")) and not list(out.rglob("sound*/0"))


def test_what_somebody_else_reports_is_neither_said_nor_acted_on(sources: list[SlideSource]) -> None:
    found, printed = preflight(sources, "unknown", "text")
    assert not found.unusable and list(found.scanners) == ["sound"]
    assert "unknown.tif" not in printed and "text.svs" not in printed
