"""The classical methods that Pix2Pix is measured against, at slide level: Reinhard, Macenko and Vahadane.

None needs neighbouring pixels (halo 0). Writes no files.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from skimage.color import lab2rgb, rgb2lab

from wsi_stain.core.arrays import Mask, Rgb, Rgb8, RgbImage, round_rgb
from wsi_stain.core.errors import NoTissueError
from wsi_stain.core.geometry import TILE
from wsi_stain.normalizers.tile_sample import read_pixels
from wsi_stain.stain.beer_lambert import change_stain
from wsi_stain.stain.statistics import StainStatistics, od_table
from wsi_stain.stain.vectors import RUIFROK, could_be_he
from wsi_stain.store import TiledSlide
from wsi_stain.store.artifact import STATISTICS, Artifact, NormalizationCounts, pack_statistics, unpack_statistics

MEAN, SPREAD = "lab_mean", "lab_std"
"""Entries of Reinhard's artifact: (3,) float64 each, CIELAB of the slide's stained pixels."""

VECTORS, AMOUNTS = "vectors", "amounts"
"""Entries of Vahadane's artifact: (2, 3) unit OD vectors, (2,) amounts."""

_TILES = 100
_SPARSE_PIXELS = 2_500
"""Four times as many turn the vectors of two real slides by 0.3 degrees at most."""

_SPARSE_LEAST = 100
_SPARSITY = 0.1
_MOST_TURNS, _SETTLED = 100, 1e-8
"""Turns of learning a dictionary, and the share of the cost that one must save for another to follow."""

_STAINED_OD = 0.15
_LEAVE_OUT = "Check the tissue mask, or leave the slide out"


class ReinhardNormalizer:
    """Brings mean and standard deviation of each CIELAB channel to the reference's.

    After Reinhard et al. (2001), Color transfer between images, IEEE Comput. Graph. Appl. 21(5), 34-41, with CIELAB in
    the place of their l-alpha-beta, as is usual in histology.

    Args:
        reference_lab_mean: Mean L*, a*, b* of the reference's stained pixels; see `lab_moments`.
        reference_lab_std: Their standard deviations.
        white: What tiles that are not needed become, RGB.
    """

    halo, band, table = 0, 4 * TILE, None

    def __init__(self, reference_lab_mean: Rgb, reference_lab_std: Rgb, white: Rgb8 = (255, 255, 255)) -> None:
        self._mean = np.asarray(reference_lab_mean)
        self._std = np.asarray(reference_lab_std)
        self.white = white

    def prepare(self, slide: TiledSlide, statistics: StainStatistics) -> Artifact:
        """Measure the slide's own mean and standard deviation on a spread of its tissue tiles.

        Raises:
            NoTissueError: No tile holds stained tissue.
        """
        mean, std = lab_moments(read_pixels(slide, _TILES), statistics.white)
        return {MEAN: np.asarray(mean), SPREAD: np.asarray(std)}

    def apply(
        self, pixels: RgbImage, needed: Mask, artifact: Artifact, tally: NormalizationCounts | None = None
    ) -> RgbImage:
        """Normalize the tiles needed, (h, w, 3); the rest is white."""
        scale = self._std / np.maximum(artifact[SPREAD], 1e-3)
        result = _fill_white(pixels, self.white)
        for window in _needed_windows(needed):
            lab = (rgb2lab(pixels[window]) - artifact[MEAN]) * scale + self._mean
            # Colours outside sRGB are cut off below; a* and b* without a Z are no fault worth a warning.
            lab[..., 0] = np.clip(lab[..., 0], 0, 100)
            lab[..., 2] = np.minimum(lab[..., 2], 200 * ((lab[..., 0] + 16) / 116))
            result[window] = _to_8bit(255 * lab2rgb(lab))
        return result


class MacenkoNormalizer:
    """Replaces the slide's stain vectors by the reference's and scales each stain to the reference's amount.

    After Macenko et al. (2009), A method for normalizing histology slides for quantitative analysis, ISBI, 1107-1110;
    the amounts are those of `stain.statistics`, hematoxylin in nuclei and eosin in stroma, not 99th percentiles.

    Args:
        reference: Stain of the reference.
    """

    halo, band, table = 0, 4 * TILE, None

    def __init__(self, reference: StainStatistics) -> None:
        self._reference = reference
        self.white = round_rgb(reference.white)

    def prepare(self, slide: TiledSlide, statistics: StainStatistics) -> Artifact:
        """Return the slide's stain, which is all there is to know."""
        return {STATISTICS: pack_statistics(statistics)}

    def apply(
        self, pixels: RgbImage, needed: Mask, artifact: Artifact, tally: NormalizationCounts | None = None
    ) -> RgbImage:
        """Normalize the tiles needed, (h, w, 3); the rest is white."""
        own, reference = unpack_statistics(artifact), self._reference
        amounts = reference.h_nuclei / own.h_nuclei, reference.e_stroma / own.e_stroma
        result = _fill_white(pixels, self.white)
        for window in _needed_windows(needed):
            result[window] = change_stain(pixels[window], own, reference, amounts)
        return result


class VahadaneNormalizer:
    """Like Macenko's, with stain vectors from sparse non-negative dictionaries and amounts from their 99th percentiles.

    After Vahadane et al. (2016), Structure-preserving color normalization and sparse stain separation for histological
    images, IEEE Trans. Med. Imaging 35, 1962-1971, equations 7 and 9.

    Args:
        reference_vectors: Unit OD vectors of the reference's hematoxylin and eosin; see `sparse_stains`.
        reference_amounts: The 99th percentile of each one's amount, OD.
        reference_white: Colour of the reference's glass, RGB from 0 to 255; also what tiles not needed become.
    """

    halo, band, table = 0, 4 * TILE, None

    def __init__(
        self, reference_vectors: tuple[Rgb, Rgb], reference_amounts: tuple[float, float], reference_white: Rgb
    ) -> None:
        self._vectors, self._amounts = np.asarray(reference_vectors), np.asarray(reference_amounts)
        self._reference_white = np.asarray(reference_white, np.float32) + 1
        self.white = round_rgb(reference_white)

    def prepare(self, slide: TiledSlide, statistics: StainStatistics) -> Artifact:
        """Find the slide's own vectors and amounts on a spread of its tissue tiles."""
        vectors, amounts = sparse_stains(read_pixels(slide, _TILES), statistics.white)
        return {STATISTICS: pack_statistics(statistics), VECTORS: np.asarray(vectors), AMOUNTS: np.asarray(amounts)}

    def apply(
        self, pixels: RgbImage, needed: Mask, artifact: Artifact, tally: NormalizationCounts | None = None
    ) -> RgbImage:
        """Normalize the tiles needed, (h, w, 3); the rest is white."""
        table = od_table(unpack_statistics(artifact).white)
        unmix = np.linalg.pinv(artifact[VECTORS]) * (self._amounts / artifact[AMOUNTS])
        result = _fill_white(pixels, self.white)
        for window in _needed_windows(needed):
            od = np.stack([table[pixels[window][..., c], c] for c in range(3)], axis=-1)
            mixed = np.maximum(od @ unmix, 0) @ self._vectors
            result[window] = _to_8bit(self._reference_white * np.exp(-mixed) - 1)
        return result


def sparse_stains(pixels: RgbImage, white: Rgb) -> tuple[tuple[Rgb, Rgb], tuple[float, float]]:
    """Find stain vectors after Vahadane et al. (2016), equation 7: a sparse non-negative dictionary of two.

    Args:
        pixels: RGB, (N, 3); ink, pigment and black among them do not count, as in `slide_statistics`.
        white: The slide's white point.

    Returns:
        Unit OD vectors of hematoxylin and eosin, and the 99th percentile of each one's amount.

    Raises:
        NoTissueError: Hardly any pixel is stained.
    """
    od = _od(pixels, white)
    od = od[_is_stained(od)]
    if len(od) < _SPARSE_LEAST:
        raise NoTissueError(f"Only {len(od)} stained pixels were found, expected at least {_SPARSE_LEAST}", _LEAVE_OUT)
    sample = od[np.linspace(0, len(od) - 1, min(len(od), _SPARSE_PIXELS)).astype(np.intp)].astype(np.float64)
    vectors = learn_pair(sample, np.asarray(RUIFROK), _SPARSITY)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors[np.argsort(-vectors[:, 0])]  # hematoxylin absorbs more red
    hematoxylin, eosin = np.percentile(np.maximum(od @ np.linalg.pinv(vectors), 0), 99, axis=0)
    return (_to_rgb(vectors[0]), _to_rgb(vectors[1])), (float(hematoxylin), float(eosin))


def learn_pair(samples: NDArray[np.float64], atoms: NDArray[np.float64], sparsity: float) -> NDArray[np.float64]:
    """Learn a non-negative dictionary of two atoms by turns: code for these atoms, then atoms for this code.

    What scikit-learn's `DictionaryLearning` does by coordinate descent, which takes a call for every sample. The code
    of two atoms has a closed form, for all samples at once.

    Args:
        samples: (N, channels).
        atoms: (2, channels), to begin with.
        sparsity: Weight of the code's sum beside half the squared error.

    Returns:
        (2, channels), of length 1 at most.
    """
    atoms, before = atoms.copy(), np.inf
    for _ in range(_MOST_TURNS):
        code = _code_pair(samples, atoms, sparsity)
        squares, products = code.T @ code, samples.T @ code
        for own in range(2):
            if squares[own, own] > 0:
                atoms[own] += (products[:, own] - squares[own] @ atoms) / squares[own, own]
                atoms[own] = np.maximum(atoms[own], 0)
                atoms[own] /= max(np.linalg.norm(atoms[own]), 1)
        cost = 0.5 * float(((samples - code @ atoms) ** 2).sum()) + sparsity * float(code.sum())
        if before - cost < _SETTLED * cost:
            break
        before = cost
    return atoms


def _code_pair(samples: NDArray[np.float64], atoms: NDArray[np.float64], sparsity: float) -> NDArray[np.float64]:
    """Return the non-negative code, (N, 2), of least half squared error plus `sparsity` times its sum."""
    products, overlap = samples @ atoms.T - sparsity, atoms @ atoms.T
    both = products @ np.linalg.pinv(overlap)
    alone = np.maximum(products, 0) / np.diag(overlap)
    worth = alone**2 * np.diag(overlap)
    alone[np.arange(len(alone)), worth.argmin(axis=1)] = 0
    return np.where((both >= 0).all(axis=1, keepdims=True), both, alone)


def lab_moments(pixels: RgbImage, white: Rgb) -> tuple[Rgb, Rgb]:
    """Measure mean and standard deviation of L*, a*, b* over stained pixels.

    Args:
        pixels: RGB, (..., 3); ink, pigment and black among them do not count, as in `slide_statistics`.
        white: The slide's white point; what is nearly as bright is glass and does not count.

    Raises:
        NoTissueError: No pixel is stained.
    """
    flat = pixels.reshape(-1, 3)
    stained = flat[_is_stained(_od(flat, white))]
    if not len(stained):
        raise NoTissueError("No stained pixel was found", _LEAVE_OUT)
    lab = rgb2lab(stained)
    return _to_rgb(lab.mean(axis=0)), _to_rgb(lab.std(axis=0))


def _od(pixels: RgbImage, white: Rgb) -> NDArray[np.float32]:
    """Compute the optical density of (N, 3) pixels."""
    table = od_table(white)
    return np.stack([table[pixels[:, c], c] for c in range(3)], axis=-1)


def _is_stained(od: NDArray[np.float32]) -> Mask:
    """Mark, (N,), what is neither nearly glass nor anything that cannot be H&E."""
    return np.asarray((od.mean(axis=1) > _STAINED_OD) & could_be_he(od))


def _needed_windows(needed: Mask) -> Iterator[tuple[slice, slice]]:
    """Yield the tiles that matter, as slices of the block; arrays cut the last ones at the block's edge."""
    for row, col in np.argwhere(needed).tolist():
        yield slice(row * TILE, (row + 1) * TILE), slice(col * TILE, (col + 1) * TILE)


def _fill_white(pixels: RgbImage, white: Rgb8) -> RgbImage:
    result = np.empty_like(pixels)
    result[:] = white
    return result


def _to_8bit(values: NDArray[np.floating]) -> RgbImage:
    rounded: RgbImage = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded


def _to_rgb(values: NDArray[np.float64]) -> Rgb:
    first, second, third = (float(value) for value in values)
    return first, second, third
