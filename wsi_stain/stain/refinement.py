"""Stain statistics brought to what a generator believes of a slide, by what it made of some of its tissue.

Statistics turn a slide's optical density into a template, T = OD U. A generator that was taught to doubt them
(`training.statistics_jitter`) also reads the tissue and colours it as it believes the reference would; what the
reference's own statistics see in that is the template it believes in, B. Each tile shows a little of it, and the
generator goes only part of the way. Over many tiles the least squares of B = T A say which way: where A is not the
identity the statistics are off, and OD U A is what to show the generator next. That is repeated; as the statistics come
right, A comes near to the identity. Without any change of the generator it is an iteration to a fixed point.

Knows no generator, slides or files.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.arrays import RgbImage, to_rgb
from wsi_stain.stain.gains import stain_gains, with_gains
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.stain.template import Template, apply_template
from wsi_stain.stain.vectors import angle_deg, unmixing_matrix

_MOST_GAIN, _MOST_LEAK = 1.5, 0.3
"""Of one step: the largest factor on a stain, and the largest share of one that was taken for the other."""

_LEAST_APART_DEG = 8.0
"""Smallest angle between the two vectors; closer, they are not told apart, and stay as they were."""


def refine_statistics(
    pairs: Iterable[tuple[RgbImage, RgbImage]], statistics: StainStatistics, template: Template
) -> StainStatistics:
    """Take one step towards the statistics that a generator believes in.

    Args:
        pairs: Pixels of the slide's tissue, (N, 3), and what the generator made of them with `statistics`, (N, 3).
        statistics: Of the slide; the better a stain is shown (`evidence`), the further it is moved.
        template: The generator's input. A gray one has one level, which says too little: statistics stay as they are.

    Returns:
        The slide's statistics with other vectors, and other levels of hematoxylin and eosin.
    """
    if template.kind != "he":
        return statistics
    shown, believed = np.zeros((2, 2)), np.zeros((2, 2))
    for source, generated in pairs:
        t, b = (
            apply_template(pixels, stain, template).astype(np.float64) + 1  # counts from glass
            for pixels, stain in ((source, statistics), (generated, template.reference))
        )
        shown += np.einsum("ni,nj->ij", t, t)  # no BLAS: its sums depend on the number of threads
        believed += np.einsum("ni,nj->ij", t, b)
    if np.linalg.det(shown) <= 1e-6 * shown.trace() ** 2:
        return statistics
    off = np.linalg.solve(shown, believed) - np.eye(2)
    off *= np.asarray(statistics.evidence)[:, None]
    leaks = np.clip(off, -_MOST_LEAK, _MOST_LEAK)
    np.fill_diagonal(leaks, np.clip(1 + np.diag(off), 1 / _MOST_GAIN, _MOST_GAIN))
    return _unmix_further(statistics, template.reference, leaks)


def _unmix_further(
    statistics: StainStatistics, reference: StainStatistics, factors: NDArray[np.float64]
) -> StainStatistics:
    """Return statistics with which a template is that of `statistics` times `factors`, (2, 2)."""
    levels = np.array([reference.h_nuclei, reference.e_stroma])
    unmixing = unmixing_matrix(statistics.vectors) * (stain_gains(statistics, reference) / levels)
    vectors = np.linalg.pinv(unmixing @ factors)
    lengths = np.linalg.norm(vectors, axis=1)
    h, e = (to_rgb(vector) for vector in vectors / lengths[:, None])
    if angle_deg(h, e) < _LEAST_APART_DEG:
        return statistics
    h_gain, e_gain = levels / lengths
    return with_gains(statistics.model_copy(update={"vectors": (h, e)}), reference, (float(h_gain), float(e_gain)))
