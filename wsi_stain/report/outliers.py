"""Slides to see first, and why. Knows no files.

A slide stands out by what its row says outright (holes, tiles that may hold overlooked tissue, lines that show), or by
a measure that is far from the other slides': the modified z-score 0.6745 (x - median) / MAD, beyond 3.5, of Iglewicz
and Hoaglin (1993, How to Detect and Handle Outliers). Where nearly all slides agree the MAD is next to nothing; it is
taken for at least what would not be worth mentioning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log2
from typing import NamedTuple

import numpy as np

from wsi_stain.metrics.chromatin import LEAST_KEPT
from wsi_stain.results.slide_row import SlideRow
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.stain.vectors import LUMINANCE, RUIFROK, angle_deg

BEYOND = 3.5
FEWEST = 5
"""With fewer slides than this none is compared with the others."""

_SEAM = 1.05
"""Lower end of a seam score's interval from which lines may show; without any it came to 1.03 (docs/quality.md)."""


class Measure(NamedTuple):
    """A number that slides are compared by.

    Attributes:
        name: What it is called, with its unit.
        value: It, or None where the row does not have it.
        spread: Least MAD.
        only_high: Whether low values are good.
    """

    name: str
    value: Callable[[SlideRow], float | None]
    spread: float
    only_high: bool = False


@dataclass(frozen=True)
class OutlierScore:
    """Score of a slide: how far it stands out.

    Attributes:
        score: 0 for a slide like the others; else the largest z-score, or as much.
        reasons: Why, one sentence each.
    """

    score: float
    reasons: tuple[str, ...]


def _stain_measure(
    value: Callable[[StainStatistics], float], after: bool = False
) -> Callable[[SlideRow], float | None]:
    def measure_row(row: SlideRow) -> float | None:
        stain = (row.colours and row.colours.stain) if after else row.stain
        return value(stain) if stain else None

    return measure_row


MEASURES = (
    Measure("white, grey levels", _stain_measure(lambda stain: float(np.dot(stain.white, LUMINANCE))), 2.0),
    Measure(
        "angle of hematoxylin, degrees", _stain_measure(lambda stain: angle_deg(stain.vectors[0], RUIFROK[0])), 1.5
    ),
    Measure("angle of eosin, degrees", _stain_measure(lambda stain: angle_deg(stain.vectors[1], RUIFROK[1])), 1.5),
    Measure("hematoxylin in nuclei, doublings", _stain_measure(lambda stain: log2(stain.h_nuclei)), 0.1),
    Measure("eosin in stroma, doublings", _stain_measure(lambda stain: log2(stain.e_stroma)), 0.1),
    Measure("hematoxylin after, doublings", _stain_measure(lambda stain: log2(stain.h_nuclei), after=True), 0.1),
    Measure("eosin after, doublings", _stain_measure(lambda stain: log2(stain.e_stroma), after=True), 0.1),
    Measure("unexplained change, CIEDE2000", lambda row: row.hallucination_p95, 0.5, only_high=True),
    Measure("table's distance to the generator, CIEDE2000", lambda row: row.table_distance, 0.2, only_high=True),
)


def score_outliers(rows: Sequence[SlideRow]) -> list[OutlierScore]:
    """Measure how far each slide stands out, in the rows' order."""
    reasons = [list(_row_reasons(row)) for row in rows]
    for measure in MEASURES:
        values = np.array([_number(measure.value(row)) for row in rows])
        known = np.isfinite(values)
        if known.sum() < FEWEST:
            continue
        median = float(np.median(values[known]))
        spread = max(float(np.median(np.abs(values[known] - median))), measure.spread)
        for place in np.flatnonzero(known):
            z = 0.6745 * (values[place] - median) / spread
            if (z if measure.only_high else abs(z)) > BEYOND:
                reason = f"{measure.name}: {values[place]:.3g}, the others' median is {median:.3g}"
                reasons[place].append((abs(z), reason))
    return [_summarize(weighted) for weighted in reasons]


def _row_reasons(row: SlideRow) -> list[tuple[float, str]]:
    weighted = []
    if row.status == "done-with-holes":
        weighted.append((BEYOND, f"holes: {row.reason}"))
    if row.status == "done" and row.reason:
        weighted.append((BEYOND, row.reason))
    if row.suspect:
        weighted.append((BEYOND, f"{row.suspect} tiles taken for glass look as if they had tissue"))
    # A colour table treats all pixels alike: it cannot draw a line, only deepen one that the slide has.
    if row.seam and row.seam.low > _SEAM and row.table_distance is None:
        reason = f"lines may show: seam score {row.seam.score:.3f}, interval {row.seam.low:.3f} to {row.seam.high:.3f}"
        weighted.append((BEYOND + 100 * (row.seam.low - _SEAM), reason))
    kept = row.nuclei.contrast_kept if row.nuclei else None
    if kept is not None and kept < LEAST_KEPT:
        weighted.append((BEYOND, f"nuclei may have closed: {kept:.2f} of the contrast within them is kept"))
    return weighted


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _summarize(weighted: Sequence[tuple[float, str]]) -> OutlierScore:
    ordered = sorted(weighted, key=lambda reason: -reason[0])
    return OutlierScore(round(ordered[0][0], 2) if ordered else 0.0, tuple(reason for _, reason in ordered))
