"""Stain statistics brought to what a generator believes of a slide, by what it made of some of its tissue.

Statistics turn a slide's optical density into a template, T = OD U. A generator that was taught to doubt them
(`training.statistics_jitter`) also reads the tissue and colours it as it believes the reference would; what the
reference's own statistics see in that is the template it believes in, B. Each tile shows a little of it, and the
generator goes only part of the way. Over many tiles the least squares of B = T A say which way: where A is not the
identity the statistics are off, and OD U A is what to show the generator next. That is repeated; as the statistics come
right, A comes near to the identity. Without any change of the generator it is an iteration to a fixed point.

The generator knows the reference's tissue: it takes stroma that is pinker than the reference's for stroma that was
measured wrong. So vectors and levels stay within what a measurement can be off by.

Knows no generator, slides or files.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.arrays import Rgb, RgbImage, to_rgb
from wsi_stain.stain.gains import stain_gains, with_gains
from wsi_stain.stain.statistics import StainConfig, StainStatistics
from wsi_stain.stain.template import Template, apply_template
from wsi_stain.stain.vectors import angle_deg, unmixing_matrix

Square: TypeAlias = NDArray[np.float64]
"""(2, 2): hematoxylin and eosin, by themselves and with one another."""

Beliefs: TypeAlias = NDArray[np.float64]
"""(2, 2, 2): sums of T'T and of T'B over pixels. Those of several parts of the tissue add up."""

_FARTHEST_DEG, _MOST_GAIN = 6.0, 1.35
"""How far from what was measured: the angle of a vector, and the factor on a stain. Tissue that looks otherwise than
the reference's is no other stain, and the generator knows the reference's alone."""

_LEAST_APART_DEG = StainConfig().min_separation_deg


def sum_beliefs(pairs: Iterable[tuple[RgbImage, RgbImage]], statistics: StainStatistics, template: Template) -> Beliefs:
    """Sum what some of a slide's tissue says of the template that a generator believes in.

    Args:
        pairs: Pixels of the tissue, (N, 3), and what the generator made of them with `statistics`, (N, 3).
        statistics: Of the slide, as the last step left them.
        template: The generator's input. A gray one has one level, which says too little: nothing is summed.
    """
    beliefs = np.zeros((2, 2, 2))
    for source, generated in pairs if template.kind == "he" else ():
        t, b = (
            apply_template(pixels, stain, template).T.astype(np.float64, order="C") + 1  # counts from glass
            for pixels, stain in ((source, statistics), (generated, template.reference))
        )
        beliefs += [np.einsum("in,jn->ij", t, each) for each in (t, b)]  # BLAS's sums depend on the number of threads
    return beliefs


def refine_statistics(
    beliefs: Beliefs, statistics: StainStatistics, measured: StainStatistics, reference: StainStatistics
) -> StainStatistics:
    """Take one step towards the statistics that a generator believes in.

    Args:
        beliefs: From `sum_beliefs` with `statistics`, of as much of the slide's tissue as there is.
        statistics: Of the slide, as the last step left them; the better a stain is shown (`evidence`), the further it
            is moved.
        measured: Of the slide, as they were measured: the result stays near them.
        reference: Of the reference.

    Returns:
        The slide's statistics with other vectors, and other levels of hematoxylin and eosin; as they were where hardly
        anything was summed.
    """
    shown, believed = beliefs
    if np.linalg.det(shown) <= 1e-6 * shown.trace() ** 2:
        return statistics
    off = np.linalg.solve(shown, believed) - np.eye(2)
    wanted = np.eye(2) + np.asarray(statistics.evidence)[:, None] * off
    return _unmix_further(statistics, measured, reference, shown, wanted)


def _unmix_further(
    statistics: StainStatistics, measured: StainStatistics, reference: StainStatistics, shown: Square, wanted: Square
) -> StainStatistics:
    """Return statistics whose template is that of `statistics` times `wanted`, (2, 2), as nearly as may be.

    Where vectors are held back, the gains are those of least squares over the pixels that `shown` sums.
    """
    levels = np.array([reference.h_nuclei, reference.e_stroma])
    factors = np.asarray(stain_gains(statistics, reference)) / levels
    unheld = np.linalg.pinv(unmixing_matrix(statistics.vectors) * factors @ wanted)
    h, e = (_hold(vector, known) for vector, known in zip(unheld, measured.vectors, strict=True))
    if angle_deg(h, e) < _LEAST_APART_DEG:
        return statistics
    amounts = np.asarray(statistics.vectors) / factors[:, None] @ unmixing_matrix((h, e))
    gains = levels * np.sum(amounts * (shown @ wanted), axis=0) / np.sum(amounts * (shown @ amounts), axis=0)
    most = np.asarray(stain_gains(measured, reference)) * [[1 / _MOST_GAIN], [_MOST_GAIN]]
    h_gain, e_gain = np.clip(gains, *most).tolist()
    return with_gains(statistics.model_copy(update={"vectors": (h, e)}), reference, (h_gain, e_gain))


def _hold(vector: NDArray[np.float64], measured: Rgb) -> Rgb:
    """Return a vector of length 1 without negative light, turned back to `_FARTHEST_DEG` from the measured one."""
    known = np.asarray(measured)
    found = np.maximum(vector, 0)
    found /= max(np.linalg.norm(found), 1e-9)
    beyond = found - (found @ known) * known
    length = np.linalg.norm(beyond)
    if length < 1e-9:
        return measured
    angle = np.radians(min(angle_deg(to_rgb(found), measured), _FARTHEST_DEG))
    return to_rgb(np.cos(angle) * known + np.sin(angle) * beyond / length)
