"""Check of sampled tiles of a pyramid against the same tiles of its source: place, structure, nuclei, chromatin.

Memory bound: the tiles, and about 200 MB while nuclei are compared. Knows no slides or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.geometry import TileIndex
from wsi_stain.metrics.chromatin import DARK, LEAST_KEPT, NuclearDetail, contrast_kept, most_dark, nuclear_detail
from wsi_stain.metrics.nuclei import SourceNuclei, find_source_nuclei
from wsi_stain.metrics.structure import shift_px, tile_ssim
from wsi_stain.verification.faults import REPORT, Fault

SHIFT_PX = 0.5
"""Most that an output may lie beside its source: real ones do so by 0.05 px at most."""

SSIM_MEAN, SSIM_TILE = 0.85, 0.6
"""Least SSIM with the source: real outputs have 0.91 to 0.996 on average and 0.87 at least, two slides at most 0.5."""

NUCLEI = 0.95
"""Least share of the nuclei that is kept, see `SourceNuclei`: real outputs keep 0.966 to 0.995."""


class Similarity(NamedTuple):
    """Similarity of a pyramid and its source; None where that was not measured.

    Attributes:
        source: Whether the source was found.
        shift_px: How far the pyramid lies beside it, px.
        ssim: Structure, mean over the tiles.
        nuclei: Share of the nuclei that is kept.
        contrast: Share of the contrast within nuclei that is kept.
        dark: Share of nuclear pixels with a luminance below `DARK`.
    """

    source: bool
    shift_px: float | None = None
    ssim: float | None = None
    nuclei: float | None = None
    contrast: float | None = None
    dark: float | None = None


def compare_quality(
    after: NDArray[np.uint8],
    before: NDArray[np.uint8],
    sampled: Sequence[TileIndex],
    mpp: float,
    reference: NuclearDetail | None,
    remedy: str,
    has_nuclei: bool = True,
) -> tuple[list[Fault], Similarity]:
    """Check place, then structure, then nuclei, then chromatin; each where the one before it holds.

    Args:
        after: RGB of the pyramid's tiles, (n, 256, 256, 3).
        before: The same tiles of the source.
        sampled: Where they are.
        mpp: um per px.
        reference: Nuclei of the reference; None where they are not known.
        remedy: For what a run may do better.
        has_nuclei: Whether the slide shows enough hematoxylin for nuclei to be told; else nothing is said of them: what
            would be taken for nuclei is stroma.
    """
    similarity = Similarity(source=True, shift_px=shift_px(after, before))
    if similarity.shift_px is not None and similarity.shift_px > SHIFT_PX:
        expected = f"the source's pixels in their places, to {SHIFT_PX} px"
        return [Fault("place", expected, f"{similarity.shift_px:.2f} px beside them", REPORT)], similarity
    scores = tile_ssim(after, before)
    similarity = similarity._replace(ssim=float(scores.mean()))
    if scores.mean() < SSIM_MEAN or scores.min() < SSIM_TILE:
        row, col = sampled[int(scores.argmin())]
        expected = f"SSIM with the source of {SSIM_MEAN} on average and {SSIM_TILE} on each tile"
        got = f"{scores.mean():.3f} on average, {scores.min():.3f} at row {row}, column {col}"
        return [Fault("structure", expected, got, remedy)], similarity
    nuclei = find_source_nuclei(before, mpp) if has_nuclei else None
    if nuclei is None:
        return [], similarity
    similarity = similarity._replace(nuclei=nuclei.measure_kept(after))
    if similarity.nuclei is not None and similarity.nuclei < NUCLEI:
        return [Fault("nuclei", f"{NUCLEI} of the nuclei kept", f"{similarity.nuclei:.3f}", remedy)], similarity
    return _compare_chromatin(after, nuclei, reference, similarity, remedy)


def _compare_chromatin(
    after: NDArray[np.uint8],
    nuclei: SourceNuclei,
    reference: NuclearDetail | None,
    similarity: Similarity,
    remedy: str,
) -> tuple[list[Fault], Similarity]:
    """Check whether nuclei closed: by their contrast, then by how many of their pixels are dark."""
    own, other = (nuclear_detail(tiles, nuclei.mask, nuclei.mpp) for tiles in (nuclei.tiles, after))
    if own is None or other is None:
        return [], similarity
    similarity = similarity._replace(contrast=contrast_kept(other, own), dark=other.dark)
    if similarity.contrast is not None and similarity.contrast < LEAST_KEPT:
        expected = f"{LEAST_KEPT} of the source's contrast within nuclei"
        return [Fault("chromatin", expected, f"{similarity.contrast:.2f}", remedy)], similarity
    if reference is not None and other.dark > (most := most_dark(own, reference)):
        expected = f"at most {most:.1%} of nuclei below luminance {DARK} (the reference has {reference.dark:.1%})"
        return [Fault("chromatin", expected, f"{other.dark:.1%}", remedy)], similarity
    return [], similarity
