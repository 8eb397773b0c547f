"""A slide streamed from its file is the slide that the tile store holds: pixels, `kept`, stain, and so the outputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.commands import Run as Command
from tests.support.files_below import contents
from tests.support.made_checkpoint import write_untrained
from tests.support.slide_files import Jpeg, shrink, write_jpeg_slide
from tests.support.tiled_slides import SIZE, SMALL, Run, paint, write
from wsi_stain.core.errors import NoTissueError, SlideError, UnreadableError
from wsi_stain.core.geometry import Region
from wsi_stain.results import read_summary
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.slides.slide import SlideConfig
from wsi_stain.store import StoredSlide
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.streamed_slide import StreamedSlide, StreamTask, load_streamed, stream_slide, survey_streamed

Both = tuple[StoredSlide, StreamedSlide]
BOGUS = b"\xff\xd8\xff\xc5bogus"


@pytest.fixture(scope="module", params=[None, 0.7], ids=["native", "resampled"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """One slide, stored and streamed, of two blocks or resampled."""
    root = tmp_path_factory.mktemp("both")
    config = TilingConfig(slide=SlideConfig(mpp=request.param))
    source = write(root / "a.tif", paint(SIZE))
    stream_slide(StreamTask(source, config, root / "survey"))
    with load_streamed(root / "survey", source, config) as streamed:
        yield Run(source, root / "store", config).whole(), streamed


def test_what_is_known_of_it_is_the_same(both: Both) -> None:
    stored, streamed = both
    assert streamed.record == stored.record
    for name in ("kept", "tissue", "mask", "thumbnail"):
        assert np.array_equal(getattr(streamed, name), getattr(stored, name)), name
    assert (streamed.size, streamed.mpp, streamed.thumbnail_mpp) == (stored.size, stored.mpp, stored.thumbnail_mpp)
    assert 0 < stored.kept.sum() < stored.kept.size


@pytest.mark.parametrize(
    "region",
    [(0, 0, 1000, 900), (4000, 300, 800, 700), (-100, -90, 500, 400), (700, 200, 1, 1), (9000, 9000, 10, 10)],
    ids=str,
)
def test_regions_show_the_same_pixels(both: Both, region: tuple[int, int, int, int]) -> None:
    stored, streamed = both
    expected = stored.read(Region(*region))
    assert np.array_equal(streamed.read(Region(*region)), expected)


def test_tiles_in_batches_are_the_same(both: Both) -> None:
    stored, streamed = both
    tiles = stored.tile_indices()[::-1]
    assert np.array_equal(streamed.read_tiles(tiles), stored.read_tiles(tiles))
    streamed.close()
    with streamed.opener() as again:
        assert np.array_equal(again.read_tile(tiles[0]), stored.read_tile(tiles[0]))
    assert not streamed.repaired


def write_damaged_slide(path: Path) -> SlideSource:
    """A slide of SMALL with unreadable JPEG tiles in its tissue."""
    pixels = paint(SMALL)
    spoilt = {(0, row * 7 + col): BOGUS for row, col in [(1, 3), (1, 4), (2, 2)]}
    jpeg = Jpeg((240, 240), "YCBCR", "420", aperio=True)
    write_jpeg_slide(path, [pixels, shrink(pixels, 4, "ceil")], jpeg, mpp=0.5, spoilt=spoilt)
    return SlideSource(path=path, slide_id=path.name, relative=path.name)


def test_a_damaged_slide_has_the_same_pixels_and_holes(tmp_path: Path) -> None:
    source, config = write_damaged_slide(tmp_path / "a.svs"), TilingConfig(max_holes=1)
    stored, frame = Run(source, tmp_path / "store", config).whole(), Region(0, 0, *SMALL)
    with survey_streamed(source, config) as streamed:
        assert streamed.stain == stored.stain
        assert np.array_equal(streamed.read(frame), stored.read(frame))
    assert {tuple(tile) for tile in np.argwhere(stored.map("holes"))} == streamed.repaired
    assert len(streamed.repaired) == stored.record.holes > 3


def test_a_survey_that_stands_is_not_made_again(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", paint(SMALL))
    task = StreamTask(source, TilingConfig(), tmp_path / "survey")
    assert stream_slide(task)["redone_because"] is None
    before = contents(task.folder)
    assert stream_slide(task)["redone_because"] is None
    assert contents(task.folder) == before
    relabelled = load_streamed(task.folder, source.model_copy(update={"group": "lab"}), task.config)
    assert relabelled.record.group == "lab"
    write(tmp_path / "a.tif", paint(SMALL, seed=1))
    assert stream_slide(task)["redone_because"] == "the slide or the settings changed"
    assert contents(task.folder) != before


def test_a_slide_that_cannot_be_streamed_says_why(tmp_path: Path) -> None:
    glass = write(tmp_path / "glass.tif", np.full((900, 1200, 3), 240, np.uint8))
    with pytest.raises(NoTissueError, match=r"No tissue was found on glass\.tif"):
        survey_streamed(glass, TilingConfig())
    with pytest.raises(SlideError, match=r"no survey of glass\.tif"):
        load_streamed(tmp_path, glass, TilingConfig())


# Whole runs


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained(tmp_path_factory.mktemp("checkpoint") / "c.safetensors", mpp=0.5)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a slide of two blocks, a damaged one and one of glass."""
    root = tmp_path_factory.mktemp("slides")
    write(root / "wide.tif", paint(SIZE))
    write_damaged_slide(root / "damaged.svs")
    write(root / "glass.tif", np.full((900, 1200, 3), 240, np.uint8))
    return root


def products(out: Path) -> dict[str, bytes]:
    """What two runs must agree on: pyramids, and the summary but for its seconds."""
    rows = [{**row, "seconds": ""} for row in read_summary(out / "summary.csv")]
    return {**contents(out / "slides"), "summary": str(rows).encode()}


CONFIG = "tiling: {max_holes: 1}\nnormalize: {mode: lut, stride_px: 512, lut_tiles: 10, lut_size: 9}\n"


def test_streamed_outputs_are_those_of_a_store(
    tmp_path: Path, wsi_stain: Command, checkpoint: Path, slides: Path
) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    common = [slides, "--checkpoint", checkpoint, "-c", tmp_path / "c.yaml", "-j", 0]
    assert wsi_stain("run", *common, "--out", tmp_path / "stored").code == 0
    ended = wsi_stain("run", *common, "--out", tmp_path / "streamed", "--stream")
    assert ended.code == 0, ended.out
    expected, found = products(tmp_path / "stored"), products(tmp_path / "streamed")
    assert found == expected
    assert sorted(expected) == ["damaged.ome.tif", "summary", "wide.ome.tif"]
    assert b"done-with-holes" in found["summary"]
    work = tmp_path / "streamed" / "work"
    assert not (work / "tiles.zarr").exists()
    assert not list(work.rglob("survey*"))
    faults = []
    for out in ("stored", "streamed"):  # the generator never trained, so there are some
        assert "found" in wsi_stain("verify", tmp_path / out, "-j", 0).out
        faults.append((tmp_path / out / "verify.csv").read_text())
    assert faults[0] == faults[1]


def test_a_run_may_change_between_the_two(tmp_path: Path, wsi_stain: Command, checkpoint: Path, slides: Path) -> None:
    """The products stand: they are the same."""
    (tmp_path / "c.yaml").write_text(CONFIG)
    common = [slides, "--checkpoint", checkpoint, "-c", tmp_path / "c.yaml", "-j", 0, "--out", tmp_path / "out"]
    wsi_stain("run", *common, "--stream")
    pyramid = tmp_path / "out" / "slides" / "wide.ome.tif"
    made = pyramid.stat().st_mtime_ns
    assert wsi_stain("run", *common).code == 0
    assert pyramid.stat().st_mtime_ns == made


def test_too_many_holes_fail_a_streamed_slide_alone(
    tmp_path: Path, wsi_stain: Command, checkpoint: Path, slides: Path
) -> None:
    common = [slides, "--checkpoint", checkpoint, "--mode", "lut", "-j", 0]
    reasons: list[Any] = []
    for out, options in ((tmp_path / "stored", []), (tmp_path / "streamed", ["--stream"])):
        ended = wsi_stain("run", *common, "--out", out, *options)
        assert ended.code == 3
        reasons.append([line for line in ended.out.splitlines() if "damaged.svs: failed" in line])
        assert [path.name for path in (out / "slides").iterdir()] == ["wide.ome.tif"]
    assert reasons[0] == reasons[1]
    assert "cannot be read, expected at most 5.0%" in reasons[0][0]


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--keep-tiles"], "stores no tiles that keep_tiles"), (["--codec", "jpeg"], "leave tiling.codec auto")],
    ids=["--keep-tiles", "--codec jpeg"],
)
def test_what_contradicts_streaming_is_refused(
    tmp_path: Path, wsi_stain: Command, checkpoint: Path, slides: Path, options: list[str], said: str
) -> None:
    ended = wsi_stain("run", slides, "--checkpoint", checkpoint, "--out", tmp_path, "--stream", *options)
    assert ended.code == 1
    assert said in ended.err


def test_holes_are_refused_by_share() -> None:
    from wsi_stain.tiling.tasks import check_holes

    check_holes("a.svs", 5, 100, 0.05)
    with pytest.raises(UnreadableError, match=r"6 of 100 tiles of a\.svs"):
        check_holes("a.svs", 6, 100, 0.05)
