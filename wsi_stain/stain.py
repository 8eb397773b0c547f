"""Stain of one slide, measured once, and the generator's input made from it. Knows no slides, tiles or files.

Everything is optical density (OD) relative to the slide's white point: od = -ln((I + 1) / (white + 1)), clipped at 0,
so that glass reads 0 whatever its colour. The generator's input, the template, is a projection of OD (luminance, or
hematoxylin and eosin) followed by a monotone curve that brings the slide's own levels to the reference's.

Composition bias is the enemy: a slide full of nuclei is not a darker *stain*. Hence levels are medians within strata
(nuclei, stroma), never over all tissue. Arrays may be numpy or torch; the namespace is taken from the argument.

Shape legend: N pixels, C channels of a template (1 or 2).
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from array_api_compat import array_namespace
from array_api_compat import device as device_of
from numpy.typing import NDArray
from pydantic import Field
from skimage.filters import threshold_otsu

from wsi_stain.errors import StainError
from wsi_stain.settings import Settings

Rgb: TypeAlias = tuple[float, float, float]
Array: TypeAlias = Any
"""A numpy or torch array; whatever goes in comes out."""

LUMINANCE: Rgb = (0.299, 0.587, 0.114)
"""Weights of R, G, B in luminance (ITU-R BT.601)."""

RUIFROK: tuple[Rgb, Rgb] = ((0.651, 0.701, 0.290), (0.070, 0.991, 0.110))
"""Hematoxylin and eosin OD vectors of Ruifrok and Johnston (2001), Anal. Quant. Cytol. Histol. 23, 291-299."""

_GLASS_MIN = 140
_GLASS_CHROMA = 40
_GAIN_MAX = 4.0
_HEADROOM_GRAY = 1.8
_HEADROOM_HE = 2.5
_NOT_HE_REMEDY = "Leave the slide out: only brightfield H&E can be re-stained"


class StainConfig(Settings):
    """How stain is measured, and when a slide is refused as not H&E.

    Attributes:
        min_od: Pixels whose mean OD over R, G, B is below this are not stained tissue (beta of Macenko et al.).
        angle_percentile: Percentile of the angle in the stain plane, from either end, that gives a stain vector.
        max_angle_deg: Largest angle of a stain vector from Ruifrok's, degrees.
        min_separation_deg: Smallest angle between hematoxylin and eosin, degrees.
        min_pixels: Fewest stained pixels to measure on.
        min_white: Lowest luminance of the white point of a brightfield slide, 0 to 255.
    """

    min_od: float = Field(default=0.15, gt=0, lt=1)
    angle_percentile: float = Field(default=1.0, gt=0, lt=20)
    max_angle_deg: float = Field(default=45.0, gt=0, le=90)
    min_separation_deg: float = Field(default=5.0, ge=0, le=90)
    min_pixels: int = Field(default=1000, ge=100)
    min_white: float = Field(default=100.0, ge=0, le=255)


class StainStatistics(Settings):
    """What one slide's stain is like; levels are natural-log OD.

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


class Template(Settings):
    """The generator's input, by kind and reference.

    Attributes:
        kind: "gray": luminance OD. "he": hematoxylin and eosin concentrations.
        reference: Stain of the reference that every slide is brought to.
    """

    kind: Literal["gray", "he"] = "gray"
    reference: StainStatistics

    @property
    def channels(self) -> int:
        """Channels of the template: 1 for gray, 2 for he."""
        return 1 if self.kind == "gray" else 2


def white_point(thumbnail: NDArray[np.uint8], tissue_mask: NDArray[np.bool_]) -> tuple[Rgb, str]:
    """The colour of a slide's glass.

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
        return _rgb(np.median(flat[glass], axis=0)), "glass"
    seen = flat[~filled] if not filled.all() else flat
    return _rgb(np.percentile(seen, 99.5, axis=0)), "brightest tissue"


def od_table(white: Rgb) -> NDArray[np.float32]:
    """OD of every 8-bit value: (256, 3), one column a channel, relative to `white`, never negative."""
    return _od(np.arange(256, dtype=np.float32)[:, None], np.asarray(white, np.float32), np)  # type: ignore[no-any-return]


def slide_statistics(
    pixels: NDArray[np.uint8], white: Rgb, white_origin: str, config: StainConfig | None = None
) -> StainStatistics:
    """Measure a slide's stain on a sample of its pixels.

    Stain vectors after Macenko et al. (2009), ISBI, 1107-1110; then medians of concentration and of luminance OD in
    two strata, nuclei and stroma, that Otsu's threshold on hematoxylin separates.

    Args:
        pixels: RGB, (N, 3), uint8 or float from 0 to 255; glass among them does no harm, pen does.
        white: The slide's white point.
        white_origin: Where `white` came from; recorded.
        config: Thresholds; by default those calibrated on real slides.

    Raises:
        StainError: Too little stained tissue, or not H&E.
    """
    config = config or StainConfig()
    if float(np.dot(white, LUMINANCE)) < config.min_white:
        raise StainError(
            f"The background is dark (white point {_shown(white)}), so this is no brightfield slide", _NOT_HE_REMEDY
        )
    od = _od(np.asarray(pixels, np.float32), np.asarray(white, np.float32), np)
    od = od[od.mean(axis=1) > config.min_od]
    if len(od) < config.min_pixels:
        raise StainError(
            f"Only {len(od)} stained pixels in the sample, expected at least {config.min_pixels}",
            "Check the tissue mask, or leave the slide out",
        )
    vectors = _stain_vectors(od, config)
    return StainStatistics(
        white=white, white_origin=white_origin, vectors=vectors, pixels=len(od), **_levels(od, vectors)
    )


def apply_template(pixels: Array, statistics: StainStatistics, template: Template) -> Array:
    """Make the generator's input from pixels of a slide.

    Args:
        pixels: RGB, (..., 3), numpy or torch, uint8, or float from 0 to 255.
        statistics: Stain of the slide the pixels are from.
        template: What to make.

    Returns:
        (..., C), float32 from -1 (glass) to 1, the same kind of array on the same device.
    """
    xp = array_namespace(pixels)
    value = _project(pixels, statistics.white, _projection(statistics, template.kind), xp)
    gain, bend, knee = (_like(row, pixels, xp) for row in _curves(statistics, template))
    value = xp.clip(value, min=0.0)
    value = gain * value + bend * xp.clip(value - knee, min=0.0)
    return xp.clip(value - 1.0, max=1.0)


def _project(pixels: Array, white: Rgb, projection: NDArray[np.float32], xp: Any) -> Array:
    """(..., 3) pixels to (..., C) sums of OD; 8-bit values by table, since -ln costs more than a look-up."""
    if not xp.isdtype(pixels.dtype, "integral"):
        od = _od(xp.astype(pixels, xp.float32), _like(white, pixels, xp), xp)
        return xp.matmul(od, _like(projection, pixels, xp))
    tables = od_table(white)[:, :, None] * projection  # (256, 3, C)
    planes = []
    for k in range(projection.shape[1]):
        parts = (_look_up(_like(tables[:, c, k], pixels, xp), pixels[..., c], xp) for c in range(3))
        planes.append(next(parts) + next(parts) + next(parts))
    return xp.stack(planes, axis=-1)


def _look_up(table: Array, plane: Array, xp: Any) -> Array:
    indices = xp.reshape(xp.astype(plane, xp.int32), (-1,))
    return xp.reshape(xp.take(table, indices, axis=0), plane.shape)


def _projection(statistics: StainStatistics, kind: str) -> NDArray[np.float32]:
    """(3, C): what OD is multiplied with: luminance weights, or the least squares inverse of the stain vectors."""
    if kind == "gray":
        return np.asarray(LUMINANCE, np.float32)[:, None]
    return _unmixing(statistics.vectors)


def _curves(statistics: StainStatistics, template: Template) -> NDArray[np.float32]:
    """(3, C): slope from glass, change of slope at the knee, knee; the reference's top level is 2, glass 0."""
    own, ref = statistics, template.reference
    if template.kind == "he":
        h, e = _gain(ref.h_nuclei, own.h_nuclei), _gain(ref.e_stroma, own.e_stroma)
        gains = [2 * h / (_HEADROOM_HE * ref.h_nuclei), 2 * e / (_HEADROOM_HE * ref.e_stroma)]
        return np.asarray([gains, [0, 0], [0, 0]], np.float32)
    low = _gain(ref.lum_stroma, own.lum_stroma)
    high = _gain(ref.lum_nuclei - own.lum_stroma * low, own.lum_nuclei - own.lum_stroma)
    scale = 2 / (_HEADROOM_GRAY * ref.lum_nuclei)
    return np.asarray([[low * scale], [(high - low) * scale], [own.lum_stroma]], np.float32)


def _gain(wanted: float, found: float) -> float:
    """The factor from a found level to the wanted one, clipped: beyond it is a fault of measurement, not a stain."""
    return float(np.clip(wanted / max(found, 1e-3), 1 / _GAIN_MAX, _GAIN_MAX))


def _stain_vectors(od: NDArray[np.float32], config: StainConfig) -> tuple[Rgb, Rgb]:
    """Hematoxylin and eosin: the robust extremes of the angle within the plane of the two main directions of OD."""
    _, directions = np.linalg.eigh(np.cov(od, rowvar=False))
    plane = directions[:, [2, 1]]
    plane = plane * np.where(plane.sum(axis=0) < 0, -1.0, 1.0)
    angle = np.arctan2(od @ plane[:, 1], od @ plane[:, 0])
    tail = config.angle_percentile
    ends = np.percentile(angle, [tail, 100 - tail])
    found = np.maximum(np.stack([np.cos(ends), np.sin(ends)], axis=1) @ plane.T, 0)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return _sane(found if _misfit(found) <= _misfit(found[::-1]) else found[::-1], config)


def _misfit(vectors: NDArray[np.float64]) -> float:
    return sum(_angle(found, known) for found, known in zip(vectors, RUIFROK, strict=True))


def _sane(vectors: NDArray[np.float64], config: StainConfig) -> tuple[Rgb, Rgb]:
    """The vectors, if they can be those of hematoxylin and eosin."""
    for name, found, known in zip(("hematoxylin", "eosin"), vectors, RUIFROK, strict=True):
        off = _angle(found, known)
        if off > config.max_angle_deg:
            raise StainError(
                f"Not H&E: the {name} vector {_shown(found)} is {off:.0f} degrees from the usual one, "
                f"expected at most {config.max_angle_deg:.0f}",
                _NOT_HE_REMEDY,
            )
    if (apart := _angle(*vectors)) < config.min_separation_deg:
        raise StainError(
            f"Only one stain was found: the two vectors are {apart:.1f} degrees apart, "
            f"expected at least {config.min_separation_deg:.0f}",
            _NOT_HE_REMEDY,
        )
    return _rgb(vectors[0]), _rgb(vectors[1])


def _levels(od: NDArray[np.float32], vectors: tuple[Rgb, Rgb]) -> dict[str, float]:
    """Medians within nuclei and within stroma, which hematoxylin tells apart."""
    h, e = np.maximum(od @ _unmixing(vectors), 0).T
    luminance = od @ np.asarray(LUMINANCE, np.float32)
    nuclei = h > threshold_otsu(h)
    return {
        f"{name}_{stratum}": float(np.median(values[chosen]))
        for name, values in (("h", h), ("e", e), ("lum", luminance))
        for stratum, chosen in (("nuclei", nuclei), ("stroma", ~nuclei))
    }


def _unmixing(vectors: tuple[Rgb, Rgb]) -> NDArray[np.float32]:
    """(3, 2): OD times this gives H and E concentrations (least squares)."""
    return np.linalg.pinv(np.asarray(vectors, np.float64)).astype(np.float32)


def _od(pixels: Array, white: Array, xp: Any) -> Array:
    return xp.clip(xp.log((white + 1) / (pixels + 1)), min=0.0)


def _like(values: Any, array: Array, xp: Any) -> Array:
    return xp.asarray(np.asarray(values, np.float32), device=device_of(array))


def _angle(a: Any, b: Any) -> float:
    cosine = np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _rgb(values: Any) -> Rgb:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _shown(values: Any) -> str:
    return ", ".join(f"{value:.2f}".rstrip("0").rstrip(".") for value in values)
