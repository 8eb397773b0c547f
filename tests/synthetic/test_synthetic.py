"""Synthetic slides: tissue whose truth is known, files that OpenSlide opens, scanners that keep structure and glass."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import openslide
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import label

import wsi_stain.synthetic
from wsi_stain.core.errors import OutputError, SlideError
from wsi_stain.core.geometry import Mpp, Size
from wsi_stain.metrics.colour_difference import ciede2000
from wsi_stain.slides.slide import Slide
from wsi_stain.stain.statistics import slide_statistics
from wsi_stain.synthetic import (
    LABORATORIES,
    SCANNERS,
    Cohort,
    Laboratory,
    Scanner,
    defocus,
    draw_pen,
    render_tissue,
    rescan,
    stain_tissue,
    write_cohort,
    write_slide,
)

SIZE, MPP = Size(1003, 801), 0.25
GLASS_ONLY = np.zeros((37, 53, 2), np.float32)
NEUTRAL = Scanner(
    name="neutral",
    hematoxylin_gain=1,
    eosin_gain=1,
    hematoxylin_turn=(0, 0, 0),
    eosin_turn=(0, 0, 0),
    matrix=((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    balance=(1, 1, 1),
    gamma=1,
    contrast=(0, 0, 0),
)


@pytest.fixture(scope="module")
def amounts() -> NDArray[np.float32]:
    return render_tissue(SIZE, MPP, 3)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return write_cohort(tmp_path_factory.mktemp("cohort"), width=700, truth=True, broken=True)


def level_0(path: Path) -> NDArray[np.int64]:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"), int)


def quiet(laboratory: Laboratory) -> Laboratory:
    return laboratory.model_copy(update={"noise": 0.0, "blur_px": 0.0})


# Tissue


def test_tissue_lies_on_glass_and_has_dark_nuclei_and_pink_stroma(amounts: NDArray[np.float32]) -> None:
    assert amounts.shape == (801, 1003, 2)
    assert amounts.dtype == np.float32
    assert amounts.min() >= 0
    assert amounts.max() <= 2
    corners = amounts[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert not corners.any()
    hematoxylin, eosin = amounts[..., 0], amounts[..., 1]
    assert 0.03 < (hematoxylin > 0.6).mean() < 0.4
    assert 0.3 < (eosin > 0.35).mean() < 0.95
    assert (amounts.sum(axis=-1) == 0).mean() > 0.03


def test_nuclei_have_the_size_of_nuclei(amounts: NDArray[np.float32]) -> None:
    marked, count = label(amounts[..., 0] > 0.55)
    areas = np.bincount(marked.ravel())[1:] * MPP**2
    assert count > 50
    assert 8 < np.median(areas) < 60  # um2: a lymphocyte's nucleus has about 28


@pytest.mark.parametrize("mpp", [0.5, 1.0], ids=["20x", "10x"])
def test_a_seed_is_the_same_tissue_at_every_resolution(mpp: float) -> None:
    factor = round(mpp / MPP)
    fine = render_tissue(Size(1000, 800), MPP, 4)
    coarse = render_tissue(Size(1000 // factor, 800 // factor), mpp, 4)
    boxed = fine.reshape(800 // factor, factor, 1000 // factor, factor, 2).mean(axis=(1, 3))
    for stain in (0, 1):
        assert np.corrcoef(boxed[..., stain].ravel(), coarse[..., stain].ravel())[0, 1] > 0.9


def test_seeds_decide(amounts: NDArray[np.float32]) -> None:
    assert np.array_equal(amounts, render_tissue(SIZE, MPP, 3))
    assert not np.array_equal(amounts, render_tissue(SIZE, MPP, 4))


@pytest.mark.parametrize("size", [Size(1, 1), Size(3, 217), Size(601, 5)], ids=str)
def test_tiny_canvases_are_drawn(size: Size) -> None:
    assert render_tissue(size, 0.25, 1).shape == (size.height, size.width, 2)


# Laboratories


@pytest.mark.parametrize("laboratory", LABORATORIES.values(), ids=LABORATORIES)
def test_glass_shows_the_laboratory_s_white(laboratory: Laboratory) -> None:
    pixels = stain_tissue(GLASS_ONLY, laboratory, 1)
    assert np.allclose(pixels.mean(axis=(0, 1)), laboratory.white, atol=0.3)
    assert pixels.max() < 255


@pytest.mark.parametrize("laboratory", LABORATORIES.values(), ids=LABORATORIES)
def test_light_follows_lambert_and_beer(laboratory: Laboratory) -> None:
    amount = np.array([[[0.7, 0.4]]], np.float32)
    density = 0.7 * laboratory.hematoxylin_gain * np.array(laboratory.hematoxylin)
    density = density + 0.4 * laboratory.eosin_gain * np.array(laboratory.eosin)
    expected = np.array(laboratory.white) * np.exp(-density) ** laboratory.gamma
    assert np.allclose(stain_tissue(amount, quiet(laboratory))[0, 0], expected, atol=0.51)


def test_laboratories_differ_clearly(amounts: NDArray[np.float32]) -> None:
    reference, other = (stain_tissue(amounts, LABORATORIES[name]).astype(int) for name in ("reference", "other"))
    stained = amounts.sum(axis=-1) > 0.3
    assert np.abs(reference - other)[stained].mean() > 15
    nuclei = amounts[..., 0] > 0.6
    assert (other - reference)[nuclei].mean() > 15, "the other laboratory's hematoxylin is weaker"
    redder = (other[..., 0] - other[..., 2]) - (reference[..., 0] - reference[..., 2])
    assert redder[stained].mean() > 15


@pytest.mark.parametrize("laboratory", LABORATORIES.values(), ids=LABORATORIES)
@pytest.mark.parametrize("seed", [3, 11, 13])
def test_the_stain_is_found_to_be_h_and_e(laboratory: Laboratory, seed: int) -> None:
    pixels = stain_tissue(render_tissue(SIZE, MPP, seed), laboratory, seed)
    found = slide_statistics(pixels.reshape(-1, 3), laboratory.white, "glass")
    assert found.h_nuclei > 2 * found.h_stroma
    assert found.lum_nuclei > 1.2 * found.lum_stroma
    for vector, true in zip(found.vectors, (laboratory.hematoxylin, laboratory.eosin), strict=True):
        assert np.dot(vector, true) / np.linalg.norm(true) > np.cos(np.deg2rad(12))


# Defects


@pytest.mark.parametrize(
    ("colour", "darkest"), [("blue", 0), ("green", 0), ("black", 0)], ids=["blue", "green", "black"]
)
def test_ink_covers_part_of_glass_and_leaves_the_rest(colour: str, darkest: int) -> None:
    glass = stain_tissue(np.zeros((431, 617, 2), np.float32), quiet(LABORATORIES["reference"]))
    marked = draw_pen(glass, colour, 5, 30)  # type: ignore[arg-type]
    changed = (marked != glass).any(axis=-1)
    assert 0.01 < changed.mean() < 0.2
    ink = marked[(glass.astype(int) - marked).sum(axis=-1) > 200].mean(axis=0)
    assert int(ink.argmin()) == darkest
    assert ink[darkest] < 80


def test_a_patch_is_out_of_focus_and_the_rest_is_not(amounts: NDArray[np.float32]) -> None:
    sharp = stain_tissue(amounts, LABORATORIES["reference"])
    soft = defocus(sharp, 3, 4)
    changed = (soft != sharp).any(axis=-1)
    assert 0.05 < changed.mean() < 0.3
    assert (
        np.diff(soft.astype(int), axis=1)[changed[:, 1:]].std()
        < 0.7 * np.diff(sharp.astype(int), axis=1)[changed[:, 1:]].std()
    )


# Files


@pytest.mark.parametrize("size", [Size(1003, 801), Size(257, 1300), Size(100, 90)], ids=str)
@pytest.mark.parametrize(
    ("style", "vendor", "factor", "power"),
    [pytest.param("tiff", "generic-tiff", 2, None, id="tiff"), pytest.param("svs", "aperio", 4, "40", id="svs")],
)
def test_openslide_finds_levels_and_resolution(
    tmp_path: Path, size: Size, style: str, vendor: str, factor: int, power: str | None
) -> None:
    pixels = stain_tissue(render_tissue(size, 0.2521, 6), LABORATORIES["reference"], 6)
    write_slide(tmp_path / f"a.{style}", pixels, 0.2521, 40, style)  # type: ignore[arg-type]
    with openslide.OpenSlide(tmp_path / f"a.{style}") as slide:
        assert slide.properties["openslide.vendor"] == vendor
        assert slide.dimensions == size
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.2521, rel=1e-4)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.2521, rel=1e-4)
        assert slide.properties.get("openslide.objective-power") == power
        assert slide.level_downsamples == pytest.approx([factor**n for n in range(slide.level_count)], rel=0.02)
        assert max(slide.level_dimensions[-1]) <= 512
        assert set(slide.associated_images) == ({"thumbnail"} if style == "svs" else set())
        for level, dimensions in enumerate(slide.level_dimensions):
            shown = np.asarray(slide.read_region((0, 0), level, dimensions).convert("RGB"), float)
            assert np.abs(shown.mean(axis=(0, 1)) - pixels.mean(axis=(0, 1))).max() < 6  # a swapped colour is off by 30
    assert np.abs(level_0(tmp_path / f"a.{style}") - pixels).mean() < 5


@pytest.mark.parametrize("style", ["tiff", "svs"])
def test_resolution_can_be_left_out(tmp_path: Path, style: str) -> None:
    write_slide(tmp_path / "a.tif", np.full((301, 517, 3), 240, np.uint8), None, None, style)  # type: ignore[arg-type]
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        assert "openslide.mpp-x" not in slide.properties
        assert "openslide.objective-power" not in slide.properties


def test_unwritable_places_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_slide(tmp_path / "file" / "a.tif", np.zeros((9, 7, 3), np.uint8), 0.25)


# Cohort


def test_the_cohort_has_three_slides_and_a_broken_one(cohort: Cohort) -> None:
    names = {path.relative_to(cohort.slides).as_posix() for path in cohort.slides.rglob("*.*")}
    assert names == {"plain.tif", "marked.svs", "nested/odd.tif", "broken.svs"}
    assert set(cohort.truth) == names - {"broken.svs"}
    with pytest.raises(SlideError):
        Slide(cohort.slides / "broken.svs")
    assert len({level_0(cohort.slides / name).shape for name in cohort.truth}) == 3


@pytest.mark.parametrize(
    ("name", "vendor", "power"),
    [("plain.tif", "generic-tiff", None), ("marked.svs", "aperio", 40.0), ("nested/odd.tif", "generic-tiff", None)],
    ids=["plain", "marked", "nested"],
)
def test_slides_open_with_their_resolution(cohort: Cohort, name: str, vendor: str, power: float | None) -> None:
    with Slide(cohort.slides / name) as slide:
        assert (slide.vendor, slide.objective_power) == (vendor, power)
        assert slide.mpp == pytest.approx(Mpp(0.25, 0.25), rel=1e-4)


def test_truth_is_the_same_tissue_in_the_reference_s_stain(cohort: Cohort) -> None:
    slide, truth, reference = (
        level_0(path)
        for path in (cohort.slides / "plain.tif", cohort.truth["plain.tif"], next(cohort.reference.iterdir()))
    )
    assert slide.shape == truth.shape
    assert np.corrcoef(slide[..., 1].ravel(), truth[..., 1].ravel())[0, 1] > 0.9
    nuclei = [
        pixels[pixels.sum(axis=-1) < np.quantile(pixels.sum(axis=-1), 0.02)] for pixels in (slide, truth, reference)
    ]
    colours = [pixels.mean(axis=0) for pixels in nuclei]
    assert np.linalg.norm(colours[1] - colours[2]) < 0.5 * np.linalg.norm(colours[0] - colours[2])
    glass = [np.median(pixels[:9].reshape(-1, 3), axis=0) for pixels in (slide, truth, reference)]
    assert np.linalg.norm(glass[1] - glass[2]) <= 2 < np.linalg.norm(glass[0] - glass[2])


def test_ink_is_on_the_slide_and_not_on_its_truth(cohort: Cohort) -> None:
    def has_ink(path: Path) -> float:
        red, green, blue = np.moveaxis(level_0(path), -1, 0)
        return float(((blue > red + 80) & (blue > green + 25)).mean())

    assert has_ink(cohort.slides / "marked.svs") > 0.005
    assert has_ink(cohort.truth["marked.svs"]) < 0.001


def test_the_cohort_is_the_same_bytes_again_and_what_exists_is_kept(cohort: Cohort, tmp_path: Path) -> None:
    again = write_cohort(tmp_path, width=700)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.is_file()}
    assert len(written) == 4
    for path in written:
        assert path.read_bytes() == (cohort.slides.parent / path.relative_to(tmp_path)).read_bytes()
    assert write_cohort(tmp_path, width=700) == again
    assert {path: path.stat().st_mtime_ns for path in written} == written


# Scanners


def test_a_neutral_scanner_changes_nothing() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    assert np.abs(rescan(pixels, NEUTRAL).astype(int) - pixels).max() <= 1


@pytest.mark.parametrize("scanner", SCANNERS.values(), ids=SCANNERS)
def test_scanners_change_tissue_strongly_and_keep_glass_light(scanner: Scanner, amounts: NDArray[np.float32]) -> None:
    pixels = stain_tissue(amounts, LABORATORIES["reference"])
    seen = rescan(pixels, scanner)
    stained = amounts.sum(axis=-1) > 0.3
    assert ciede2000(seen[stained][None], pixels[stained][None]) > 5
    assert seen[amounts.sum(axis=-1) == 0].mean(axis=0).min() > 215
    assert np.corrcoef(seen[..., 1].ravel(), pixels[..., 1].ravel())[0, 1] > 0.95


@pytest.mark.parametrize("scanner", SCANNERS.values(), ids=SCANNERS)
def test_gray_rows_keep_their_brightness(scanner: Scanner) -> None:
    assert np.allclose(np.sum(scanner.matrix, axis=1), 1, atol=0.02)


@given(top=st.integers(0, 1000), height=st.integers(1, 150))
def test_a_crop_is_rescanned_as_the_whole_is(top: int, height: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (1151, 7, 3), dtype=np.uint8)
    whole = rescan(pixels, SCANNERS["pink"])[top : top + height]
    crop = rescan(pixels[top : top + height], SCANNERS["pink"])
    assert np.abs(whole.astype(int) - crop).max() <= 1  # the order of a matrix product's sums may differ with its size


def test_the_simulators_share_no_code_with_what_they_test() -> None:
    folder = Path(wsi_stain.synthetic.__file__).parent
    for path in sorted(folder.glob("*.py")):
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        own = {str(node.module) for node in nodes if str(node.module).startswith("wsi_stain")}
        allowed = {
            "wsi_stain.core.arrays",
            "wsi_stain.core.geometry",
            "wsi_stain.core.journal",
            "wsi_stain.core.records",
        }
        assert {name for name in own if not name.startswith("wsi_stain.synthetic")} <= allowed
