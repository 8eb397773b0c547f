"""A power cut at any moment, and files torn in any place: the next run notices, and its outputs are the same bytes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import Ended, Run
from tests.support.files_below import digests
from tests.support.identity import identity_in_every_mode
from tests.support.made_checkpoint import write_untrained
from tests.support.made_store import paint_tissue
from tests.support.power_loss import Disk, recorded
from tests.support.viewed import pyramid
from wsi_stain.core.geometry import Size

FORMATS = ("-f", "ome-tiff", "-f", "ome-zarr")
CUTS = 3


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small slides."""
    folder = tmp_path_factory.mktemp("power")
    for seed, name in enumerate(("a", "b")):
        pyramid(folder / "slides" / f"{name}.svs", paint_tissue(Size(500, 600), seed))
    return folder / "slides"


@pytest.fixture
def identities() -> Iterator[None]:
    with identity_in_every_mode():
        yield


def run(wsi_stain: Run, slides: Path, out: Path) -> Ended:
    checkpoint = out.parent / "untrained.safetensors"
    if not checkpoint.exists():
        write_untrained(checkpoint)
    return wsi_stain("run", slides, "-o", out, "--checkpoint", checkpoint, "-c", "small", "-j", 0, *FORMATS)


def run_recorded(wsi_stain: Run, slides: Path, out: Path) -> Disk:
    """Run, and record what the disk is sure to hold meanwhile."""
    out.mkdir()
    with recorded(out) as disk:
        assert run(wsi_stain, slides, out).code == 0
    return disk


def check_order(disk: Disk) -> None:
    """Written, synced, renamed, and the directory synced, with all above it, before anything else is renamed."""
    assert len(disk.renames) > 20
    assert [rename.target for rename in disk.renames if not rename.was_synced] == []
    for rename, following in zip(disk.renames, [*disk.renames[1:], None], strict=True):
        until = following.number if following else len(disk.moments)
        syncs = disk.synced_directories.get(rename.target.parent, [])
        moved_away = rename.target.name.endswith(".partial")
        done = [sync for sync in syncs if rename.number <= sync < until]
        assert moved_away or any(disk.holds(sync, rename.target) for sync in done), rename


def test_what_a_cut_leaves_is_taken_up_again(slides: Path, tmp_path: Path, wsi_stain: Run, identities: None) -> None:
    finished = run_recorded(wsi_stain, slides, tmp_path / "out")
    check_order(finished)
    whole = digests(tmp_path / "out" / "slides")
    moments = len(finished.moments)
    for cut in range(1, CUTS + 1):
        out = tmp_path / f"cut{cut}"
        finished.write(moments * cut // (CUTS + 1), out)
        (out / ".lease").unlink(missing_ok=True)
        assert run(wsi_stain, slides, out).code == 0
        assert digests(out / "slides") == whole, f"cut after {moments * cut // (CUTS + 1)} of {moments} syncs"
        assert not list(out.rglob("*.partial"))


@pytest.mark.slow
def test_every_cut_is_survived(slides: Path, tmp_path: Path, wsi_stain: Run, identities: None) -> None:
    """Syncs that leave the disk as another did are tried once: a cut after either is the same cut."""
    slide = slides / "a.svs"
    finished = run_recorded(wsi_stain, slide, tmp_path / "out")
    whole = digests(tmp_path / "out" / "slides")
    moments = finished.different_moments(apart=".lease")
    assert len(moments) > 40
    for moment in moments:
        out = tmp_path / "cut"
        finished.write(moment, out)
        (out / ".lease").unlink(missing_ok=True)
        assert run(wsi_stain, slide, out).code == 0
        assert digests(out / "slides") == whole, f"cut after {moment} of {len(finished.moments)} syncs"
        shutil.rmtree(out)


def tear(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: min(int(len(content) * share), len(content) - 1)] if content else b"")


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_every_torn_file_is_made_again(
    slides: Path, tmp_path: Path, wsi_stain: Run, identities: None, share: float
) -> None:
    slide = slides / "a.svs"
    assert run(wsi_stain, slide, tmp_path / "out").code == 0
    whole = digests(tmp_path / "out" / "slides")
    files = [path for path in sorted((tmp_path / "out").rglob("*")) if path.is_file() and path.stat().st_size]
    assert len(files) > 15
    for path in files:
        out, name = tmp_path / "torn", path.relative_to(tmp_path / "out")
        shutil.copytree(tmp_path / "out", out)
        tear(out / name, share)
        ended = run(wsi_stain, slide, out)
        assert ended.code == 0, (name, ended)
        assert digests(out / "slides") == whole, name
        shutil.rmtree(out)
