"""The pictures of a slide's row: both sides show the same place, and the places are those they claim to be."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image

from tests.support.made_checkpoint import STATISTICS
from tests.support.made_run import ODD, Pixels, Unchanged, odd_slide, run_unchanged
from wsi_stain.core.errors import OutputError
from wsi_stain.core.geometry import BLOCK, TILE
from wsi_stain.core.html import thumbnail_jpeg
from wsi_stain.report import PictureTask, load_pictures, make_pictures
from wsi_stain.report.fields import change_of
from wsi_stain.results import SlideRow
from wsi_stain.results.finished import load_finished
from wsi_stain.stain.statistics import StainStatistics


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Unchanged:
    folder = tmp_path_factory.mktemp("run")
    return run_unchanged(odd_slide(folder / "odd.svs"), folder / "out")


@pytest.fixture(scope="module")
def row(run: Unchanged) -> SlideRow:
    (place,) = (run.pyramid.parents[1] / "work" / "slides").iterdir()
    finished = load_finished(place)
    assert finished is not None
    return finished.row


def decode_jpeg(jpeg: bytes | None) -> Pixels:
    assert jpeg is not None
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def test_the_places_are_tissue_a_border_and_the_largest_change(row: SlideRow) -> None:
    assert [(field.what, field.mpp) for field in row.fields] == [
        ("most tissue", 2.0),
        ("block border", 0.5),
        ("largest change", 0.5),
    ]
    assert all(decode_jpeg(field.before).shape == (360, 480, 3) for field in row.fields)
    border = row.fields[1]
    crossed = border.x < BLOCK < border.x + 480 or border.y < BLOCK < border.y + 360
    assert crossed


def test_before_is_the_slide_and_after_the_pyramid_at_the_same_place(run: Unchanged, row: SlideRow) -> None:
    with openslide.OpenSlide(run.source) as slide:
        for field in row.fields:
            factor = round(field.mpp / 0.5)
            place = (field.x, field.y), 0, (480 * factor, 360 * factor)
            wanted = decode_jpeg(thumbnail_jpeg(slide.read_region(*place).convert("RGB").reduce(factor))).astype(int)
            assert np.abs(decode_jpeg(field.before) - wanted).mean() < 1, field.what
            assert np.abs(decode_jpeg(field.after) - wanted).mean() < 3, field.what


def test_colours_of_an_unchanged_slide_are_the_same_on_both_sides(run: Unchanged, tmp_path: Path) -> None:
    own = run.stored.stain
    assert own is not None
    colours = load_pictures(write_pictures(run, tmp_path, reference=own)).colours
    assert colours is not None and colours.stain is not None
    assert sum(colours.before) == pytest.approx(1, abs=1e-3)
    assert colours.before[0] == 0, "glass does not count"
    assert np.abs(np.subtract(colours.before, colours.after)).sum() < 0.1
    np.testing.assert_allclose(colours.stain.vectors, own.vectors, atol=0.06)
    assert colours.stain.h_nuclei == pytest.approx(own.h_nuclei, rel=0.1)
    assert colours.change < 1.5


def test_statistics_alone_change_nothing_of_a_slide_like_the_reference(run: Unchanged, tmp_path: Path) -> None:
    own = run.stored.stain
    assert own is not None
    paler = own.model_copy(update={"h_nuclei": own.h_nuclei / 2, "e_stroma": own.e_stroma / 2})
    made = [load_pictures(write_pictures(run, tmp_path, reference=each)).colours for each in (own, paler)]
    assert made[0] is not None and made[1] is not None
    assert made[0].change_by_statistics < 4 < 8 < made[1].change_by_statistics
    assert made[0].change == made[1].change


def test_nuclei_of_an_unchanged_slide_are_kept(row: SlideRow) -> None:
    assert row.nuclei is not None
    assert row.nuclei.contrast_kept == pytest.approx(1, abs=0.05)
    assert row.nuclei.after.dark == pytest.approx(row.nuclei.before.dark, abs=0.01)


def test_the_overlay_has_the_slide_s_frame(row: SlideRow) -> None:
    height, width, _ = decode_jpeg(row.overlay).shape
    assert max(height, width) == 720
    assert width / height == pytest.approx(ODD.width / ODD.height, rel=0.01)


def test_the_whole_slide_is_the_same_before_and_after(row: SlideRow) -> None:
    pictures = [Image.fromarray(decode_jpeg(side)) for side in (row.before, row.after)]
    before, after = (picture.resize((60, 60), Image.Resampling.BOX) for picture in pictures)
    assert np.abs(np.asarray(before).astype(int) - np.asarray(after)).mean() < 3


def test_a_hallucination_map_says_where_to_look(run: Unchanged, tmp_path: Path) -> None:
    values = np.zeros(run.stored.kept.shape, np.uint8)
    tile = np.argwhere(run.stored.tissue > 0.5)[7]
    values[tuple(tile)] = 90
    png = io.BytesIO()
    Image.fromarray(values).save(png, "PNG")
    field = load_pictures(write_pictures(run, tmp_path, png.getvalue())).fields[-1]
    assert field.what == "largest unexplained change"
    centre = tile * TILE + TILE // 2
    assert field.y <= centre[0] <= field.y + 360 and field.x <= centre[1] <= field.x + 480


def write_pictures(
    run: Unchanged,
    tmp_path: Path,
    hallucination: bytes | None = None,
    pyramid: Path | None = None,
    reference: StainStatistics = STATISTICS,
) -> Path:
    out = tmp_path / "pictures.json"
    task = PictureTask(
        opener=run.stored.opener,
        pyramid=pyramid or run.pyramid,
        artifact=tmp_path / "artifact.npz",  # not asked for where there is a pyramid
        stain=None,
        reference=reference,
        hallucination=hallucination,
        out=out,
    )
    make_pictures(task)
    return out


def test_the_same_slide_gives_the_same_bytes(run: Unchanged, tmp_path: Path) -> None:
    first = write_pictures(run, tmp_path).read_bytes()
    assert write_pictures(run, tmp_path).read_bytes() == first


@pytest.mark.parametrize("content", [b"", b"II+\x00 not a slide"], ids=["empty", "foreign"])
def test_an_unreadable_pyramid_is_named(run: Unchanged, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.ome.tif").write_bytes(content)
    with pytest.raises(OutputError, match=r"x\.ome\.tif cannot be read back"):
        write_pictures(run, tmp_path, pyramid=tmp_path / "x.ome.tif")


def test_change_is_by_tile() -> None:
    before, after = np.full((40, 60, 3), 200, np.uint8), np.full((40, 60, 3), 200, np.uint8)
    after[20:, 40:] = 100
    change = change_of(Image.fromarray(before), Image.fromarray(after), (2, 3))
    assert change.tolist() == [[0, 0, 0], [0, 0, 100]]
