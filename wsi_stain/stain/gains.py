"""Factors that bring a slide's stain to the reference's, as far as its levels are believed. Knows statistics alone."""

from __future__ import annotations

import numpy as np

from wsi_stain.stain.statistics import StainStatistics

_GAIN_MAX = 4.0
"""A factor beyond is a fault of measurement, not a stain."""

_LABORATORY_SPREAD = 0.3
_LEVEL_ERRORS = (0.12, 0.05)
"""Standard deviations of the logarithm: of a stain's level between laboratories; and of the measured level of
hematoxylin in nuclei and of eosin in stroma, by what a slide shows. Chosen by the table in docs/stain.md."""

_DARKER = 1.1
"""How much darker than the reference's the darkest nuclei may come out, in OD."""


def stain_gains(own: StainStatistics, reference: StainStatistics) -> tuple[float, float]:
    """Compute the factors that bring a slide's hematoxylin and eosin to the reference's.

    A level is measured with an error, since slides show different tissue, and laboratories do not differ without
    limits. So the logarithm of a ratio of levels is shrunk as the mean of a normal posterior is, the less the more
    slides were pooled, and once more by what evidence there is of the stain. Hematoxylin is held back where the darkest
    nuclei would come out darker than the reference's and close.

    Args:
        own: The slide, or its group.
        reference: The reference.
    """
    gain = believed_gain(own, reference, "h_nuclei", 0)
    return hold_dark(gain, own, reference), believed_gain(own, reference, "e_stroma", 1)


def believed_gain(own: StainStatistics, reference: StainStatistics, level: str, stain: int) -> float:
    """Compute the factor on a level, shrunk; `stain` is 0 for hematoxylin, 1 for eosin."""
    gain = (getattr(reference, level) / max(getattr(own, level), 1e-3)) ** _belief(own, reference, stain)
    return float(np.clip(gain, 1 / _GAIN_MAX, _GAIN_MAX))


def with_gains(own: StainStatistics, reference: StainStatistics, gains: tuple[float, float]) -> StainStatistics:
    """Return a slide's statistics with levels of hematoxylin and eosin from which `stain_gains` computes these factors.

    A factor on hematoxylin is still held back where nuclei would close. Where nothing is believed of a stain, its
    levels stay.
    """
    levels: dict[str, float] = {}
    for stain, (name, level) in enumerate((("h", "h_nuclei"), ("e", "e_stroma"))):
        if belief := _belief(own, reference, stain):
            factor = getattr(reference, level) * gains[stain] ** (-1 / belief) / getattr(own, level)
            levels |= {f"{name}_{part}": getattr(own, f"{name}_{part}") * factor for part in ("nuclei", "stroma")}
    return own.model_copy(update=levels)


def _belief(own: StainStatistics, reference: StainStatistics, stain: int) -> float:
    """Compute how far a ratio of two slides' levels is believed, 0 to 1."""
    error = _LEVEL_ERRORS[stain] ** 2 * (1 / reference.slides + 1 / own.slides)
    return _LABORATORY_SPREAD**2 / (_LABORATORY_SPREAD**2 + error) * min(reference.evidence[stain], own.evidence[stain])


def hold_dark(gain: float, own: StainStatistics, reference: StainStatistics) -> float:
    """Hold a factor back where the darkest nuclei would come out darker than the reference's."""
    darkest = [stain.lum_nuclei * stain.dark_ratio for stain in (reference, own)]
    return min(gain, max(1.0, _DARKER * darkest[0] / darkest[1]))
