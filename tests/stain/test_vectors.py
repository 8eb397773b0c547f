"""Hematoxylin and eosin beside other colours, where one is hardly there, and what is neither."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.stain.test_statistics import DAB, WHITE, H, he_pixels
from wsi_stain.core.errors import StainError
from wsi_stain.slides.listing.find import find_slides
from wsi_stain.stain.statistics import StainStatistics, slide_statistics, stain_remarks
from wsi_stain.stain.vectors import LUMINANCE, RUIFROK, USUAL, angle_deg
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.streamed_slide import survey_streamed

E_SCANNED = (0.05, 0.92, 0.40)
BROWN, RED_CELLS, INK, BLACK = (0.35, 0.80, 1.15), (0.15, 0.95, 0.80), (1.5, 0.75, 0.12), (1.5, 1.4, 1.5)
PONCEAU, ANILINE_BLUE, LIGHT_GREEN = (0.10, 0.74, 0.67), (0.80, 0.59, 0.10), (0.93, 0.10, 0.36)


def of_od(od: tuple[float, float, float], count: int) -> np.ndarray:
    """(count, 3) pixels of one colour in many depths."""
    rng = np.random.default_rng(3)
    amounts = rng.uniform(0.5, 1.5, (count, 1)) * np.asarray(od)
    light = (np.asarray(WHITE) + 1) * np.exp(-amounts) - 1 + rng.normal(0, 1.5, (count, 3))
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def measure(pixels: np.ndarray) -> StainStatistics:
    return slide_statistics(pixels, WHITE, "glass")


@pytest.mark.parametrize("od", [BROWN, RED_CELLS, INK, BLACK], ids=["pigment", "red cells", "ink", "black"])
@pytest.mark.parametrize("share", [0.002, 0.01, 0.1])
def test_what_lies_beside_the_stain_does_not_turn_it(od: tuple[float, float, float], share: float) -> None:
    pixels = he_pixels(0.25, vectors=(H, E_SCANNED))
    clean, dirty = measure(pixels), measure(np.concatenate([pixels, of_od(od, round(share * len(pixels)))]))
    assert max(angle_deg(a, b) for a, b in zip(clean.vectors, dirty.vectors, strict=True)) < 1
    assert dirty.h_nuclei == pytest.approx(clean.h_nuclei, rel=0.02)
    assert any("were not measured" in remark for remark in stain_remarks(dirty)) == (share > 0.05)


@pytest.mark.parametrize("stain", [0, 1], ids=["hematoxylin", "eosin"])
def test_a_stain_that_is_hardly_there_is_held_to_the_usual_one(stain: int) -> None:
    """One pixel in a hundred shows it, and the others none."""
    vectors = H, E_SCANNED
    many = he_pixels(1.0 - stain, count=400, vectors=vectors, gains=(1 - stain + 0.02, stain + 0.02))
    rest = he_pixels(float(stain), count=40_000, vectors=vectors, gains=(stain + 0.02, 1 - stain + 0.02))
    stains = measure(np.concatenate([many, rest]))
    assert stains.evidence[stain] < 0.4
    assert stains.evidence[1 - stain] == 1
    assert angle_deg(stains.vectors[stain], vectors[stain]) < 12
    name = ("hematoxylin", "eosin")[stain]
    assert stain_remarks(stains)[0].startswith(f"hardly any {name}: its colour and level are partly the usual ones")
    assert stain_remarks(measure(he_pixels(0.25, vectors=vectors))) == []


def test_pale_stain_is_measured() -> None:
    pale, plain = (measure(he_pixels(0.25, vectors=(H, E_SCANNED), gains=(gain, gain))) for gain in (0.35, 1.0))
    assert max(angle_deg(a, b) for a, b in zip(pale.vectors, plain.vectors, strict=True)) < 4
    assert pale.h_nuclei / plain.h_nuclei == pytest.approx(0.35, rel=0.1)


@pytest.mark.parametrize(
    ("vectors", "gains"),
    [
        *(((H, DAB), (1.0, gain)) for gain in (0.3, 0.6, 1.0, 2.0)),
        ((ANILINE_BLUE, PONCEAU), (1.0, 1.0)),
        ((PONCEAU, ANILINE_BLUE), (1.0, 1.0)),
        ((PONCEAU, LIGHT_GREEN), (1.0, 1.0)),
        ((H[::-1], E_SCANNED[::-1]), (1.0, 1.0)),
    ],
    ids=["DAB .3", "DAB .6", "DAB 1", "DAB 2", "trichrome, blue nuclei", "trichrome", "green trichrome", "swapped"],
)
def test_other_stains_are_refused(vectors: tuple[tuple[float, ...], ...], gains: tuple[float, float]) -> None:
    with pytest.raises(StainError, match="Not H&E"):
        measure(he_pixels(0.25, vectors=vectors, gains=gains))


@pytest.mark.parametrize("channel", [None, 0, 1, 2], ids=["gray", "red", "green", "blue"])
def test_slides_of_one_channel_are_refused(channel: int | None) -> None:
    pixels = he_pixels(0.25)
    if channel is None:
        pixels = np.repeat(np.rint(pixels @ np.asarray(LUMINANCE)).astype(np.uint8)[:, None], 3, axis=1)
    else:
        alone = np.full_like(pixels, 240)
        alone[:, channel] = pixels[:, channel]
        pixels = alone
    with pytest.raises(StainError, match=r"Not H&E|Only one stain"):
        measure(pixels)


def test_two_regions_of_one_slide_have_one_stain(real_data: Path) -> None:
    """One of them with much pigment and blood."""
    files = real_data / "slides/NanoZoomer_EO1_cropA.svs", real_data / "../cases/NanoZoomer_EO1_cropB.svs"
    if not files[1].exists():
        pytest.skip("no folder of cases beside the real slides")
    a, b = (survey_streamed(find_slides([file])[0], TilingConfig()).require_stain() for file in files)
    assert max(angle_deg(one, other) for one, other in zip(a.vectors, b.vectors, strict=True)) < 5
    assert max(angle_deg(one, usual) for one, usual in zip(b.vectors, USUAL, strict=True)) < 10
    assert b.foreign > a.foreign


@pytest.mark.parametrize("red, blue", [(0.175, 0.155), (0.16, 0.19)])
def test_magenta_as_of_pas_is_remarked_on_and_not_refused(red: float, blue: float) -> None:
    pas = slide_statistics(he_pixels(0.25, vectors=((0.65, 0.70, 0.29), (red, 0.97, blue))), WHITE, "glass")
    assert any("magenta" in remark for remark in stain_remarks(pas))
    for vectors in (RUIFROK, USUAL):
        eosin = slide_statistics(he_pixels(0.25, vectors=vectors), WHITE, "glass")
        assert not any("magenta" in remark for remark in stain_remarks(eosin))
