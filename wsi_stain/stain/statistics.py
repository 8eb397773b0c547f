"""Stain of one slide, measured once: its white point, stain vectors and levels. Knows no slides, tiles or files.

Everything is optical density (OD) relative to the slide's white point: od = -ln((I + 1) / (white + 1)), clipped at 0,
so that glass reads 0 whatever its colour.

Shape legend: N pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wsi_stain.core.arrays import Mask, Rgb, to_rgb
from wsi_stain.core.errors import StainError
from wsi_stain.core.records import StrictRecord
from wsi_stain.stain.vectors import (
    LUMINANCE,
    NOT_HE_REMEDY,
    check_vectors,
    could_be_he,
    macenko,
    stratum_levels,
)

Array: TypeAlias = Any
"""A numpy or torch array; whatever goes in comes out."""

_GLASS_MIN = 140
_GLASS_CHROMA = 40


class StainConfig(StrictRecord):
    """Settings of the measurement of stain, and limits beyond which a slide is refused as not H&E.

    Attributes:
        min_od: Pixels whose mean OD over R, G, B is below this are not stained tissue (beta of Macenko et al.).
        tail: Share of pixels whose angle in the stain plane lies beyond a stain vector.
        max_angle_deg: Largest angle of a stain vector from Ruifrok's, degrees.
        min_separation_deg: Smallest angle between hematoxylin and eosin, degrees.
        min_pixels: Fewest stained pixels to measure on.
        min_white: Lowest luminance of the white point of a brightfield slide, 0 to 255.
        max_stroma_od: Highest luminance OD of stroma; 0.4 to 0.9 on real slides, 2 and more in fluorescence.
    """

    min_od: float = Field(default=0.15, gt=0, lt=1)
    tail: float = Field(default=0.015, gt=0, lt=0.2)
    max_angle_deg: float = Field(default=45.0, gt=0, le=90)
    min_separation_deg: float = Field(default=8.0, ge=0, le=90)
    min_pixels: int = Field(default=1000, ge=100)
    min_white: float = Field(default=100.0, ge=0, le=255)
    max_stroma_od: float = Field(default=2.0, gt=0)


class StainStatistics(StrictRecord):
    """Stain of one slide; levels are natural-log OD.

    Attributes:
        white: Colour of the glass, R, G, B, 0 to 255.
        white_origin: "glass" or "brightest tissue".
        vectors: Unit OD vectors of hematoxylin and eosin.
        h_nuclei: Median hematoxylin concentration in nuclei.
        h_stroma: Median hematoxylin concentration in stroma and cytoplasm.
        e_nuclei: Median eosin concentration in nuclei.
        e_stroma: Median eosin concentration in stroma and cytoplasm.
        lum_nuclei: Median luminance OD of nuclei.
        lum_stroma: Median luminance OD of stroma and cytoplasm.
        pixels: Stained pixels measured.
    """

    white: Rgb
    white_origin: str
    vectors: tuple[Rgb, Rgb]
    h_nuclei: float = Field(gt=0)
    h_stroma: float = Field(ge=0)
    e_nuclei: float = Field(ge=0)
    e_stroma: float = Field(gt=0)
    lum_nuclei: float = Field(gt=0)
    lum_stroma: float = Field(gt=0)
    pixels: int

    @model_validator(mode="after")
    def _check_ranges(self) -> StainStatistics:
        if not all(0 <= value <= 255 for value in self.white):
            raise ValueError("white must lie between 0 and 255")
        if np.linalg.matrix_rank(np.asarray(self.vectors), tol=1e-3) < 2:
            raise ValueError("vectors must be two different directions")
        return self


def white_point(thumbnail: NDArray[np.uint8], tissue_mask: Mask) -> tuple[Rgb, str]:
    """Find the colour of a slide's glass.

    Exact fill values (0 and 255 in all channels) are no glass: scanners paint them where they did not look. Neither is
    what is dark or coloured: folds, shadows, pen.

    Args:
        thumbnail: RGB, (h, w, 3).
        tissue_mask: (h, w), true on tissue.

    Returns:
        R, G, B from 0 to 255, and where it came from: "glass", or "brightest tissue" where there is hardly any glass.
    """
    flat, tissue = thumbnail.reshape(-1, 3), tissue_mask.reshape(-1)
    low, high = flat.min(axis=1), flat.max(axis=1)
    filled = (low == 255) | (high == 0)
    glass = ~tissue & ~filled & (low >= _GLASS_MIN) & (high - low <= _GLASS_CHROMA)
    if np.count_nonzero(glass) >= max(50, flat.shape[0] // 1000):
        return to_rgb(np.median(flat[glass], axis=0)), "glass"
    seen = flat[~filled] if not filled.all() else flat
    darkest_channel = seen.min(axis=1)
    brightest = seen[darkest_channel >= np.percentile(darkest_channel, 99)]
    return to_rgb(np.median(brightest, axis=0)), "brightest tissue"


def od_table(white: Rgb) -> NDArray[np.float32]:
    """Return OD of every 8-bit value: (256, 3), one column a channel, relative to `white`, never negative."""
    return optical_density(np.arange(256, dtype=np.float32)[:, None], np.asarray(white, np.float32), np)  # type: ignore[no-any-return]


def slide_statistics(
    pixels: NDArray[np.uint8], white: Rgb, white_origin: str, config: StainConfig | None = None
) -> StainStatistics:
    """Measure a slide's stain on a sample of its pixels.

    Stain vectors after Macenko et al. (2009), refused unless they can be those of H&E; then the levels of nuclei and
    of stroma. What cannot be H&E (ink, black pigment) is left out.

    Args:
        pixels: RGB, (N, 3), uint8 or float from 0 to 255; glass among them does no harm, pen does.
        white: The slide's white point.
        white_origin: Where `white` came from; recorded.
        config: Thresholds; by default those calibrated on real slides.

    Raises:
        StainError: Too little stained tissue, or not H&E.
    """
    config = config or StainConfig()
    if (brightness := float(np.dot(white, LUMINANCE))) < config.min_white:
        raise StainError(
            f"No brightfield slide: the background is dark, luminance {brightness:.0f} of 255",
            NOT_HE_REMEDY,
        )
    od = optical_density(np.asarray(pixels, np.float32), np.asarray(white, np.float32), np)
    od = od[(od.mean(axis=1) > config.min_od) & could_be_he(od)]
    if len(od) < config.min_pixels:
        raise StainError(
            f"Only {len(od)} pixels of the sample are stained as by H&E, expected at least {config.min_pixels}",
            "Check the tissue mask, or leave the slide out",
        )
    vectors = macenko(od, config.tail)
    check_vectors(vectors, config.max_angle_deg, config.min_separation_deg)
    levels = stratum_levels(od, vectors)
    _check_levels(levels, config)
    return StainStatistics(white=white, white_origin=white_origin, vectors=vectors, pixels=len(od), **levels)


def _check_levels(levels: Mapping[str, float], config: StainConfig) -> None:
    if min(levels["h_nuclei"], levels["e_stroma"]) <= 0:
        raise StainError("Only one stain was found: either no hematoxylin or no eosin", NOT_HE_REMEDY)
    if (dark := levels["lum_stroma"]) > config.max_stroma_od:
        raise StainError(
            f"No brightfield slide: the OD of stroma is {dark:.1f}, expected at most {config.max_stroma_od}",
            NOT_HE_REMEDY,
        )


def optical_density(pixels: Array, white: Array, xp: Any) -> Array:
    """Return OD of pixels, (..., 3), relative to white, never negative; `xp` is the namespace of both arrays."""
    return xp.clip(xp.log((white + 1) / (pixels + 1)), min=0.0)
