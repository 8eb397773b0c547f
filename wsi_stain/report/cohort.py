"""A cohort's colours in charts and numbers, before and after, beside the reference's. Knows no files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from wsi_stain.core.arrays import Rgb
from wsi_stain.report.charts import Chart, Point, Series, chart
from wsi_stain.report.colours import BIN
from wsi_stain.results.slide_row import SlideRow
from wsi_stain.stain.gains import stain_gains
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.stain.vectors import angle_deg

_STAINS = ("hematoxylin", "eosin")
_LEVELS = {
    "hematoxylin in nuclei": "h_nuclei",
    "eosin in stroma": "e_stroma",
    "luminance OD of nuclei": "lum_nuclei",
    "luminance OD of stroma": "lum_stroma",
}
_SHARE_X, _SHARE_Y = "share of red in the stain's OD, %", "share of blue, %"
_OD, _OD_Y = "luminance OD (natural log), 0 is glass", "% of pixels"
_SEAMS = (0.99, 1.01)
"""Seam scores that are shown at least: so that differences of a thousandth look as small as they are."""

_MOST_ARROWS = 40


class Line(NamedTuple):
    """A line of the table of a slide's stain: a quantity, and it before, after and in the reference; "" if unknown."""

    name: str
    before: str
    after: str
    reference: str


def colour_charts(
    rows: Sequence[SlideRow], reference: StainStatistics | None, reference_od: Sequence[float]
) -> list[Chart]:
    """Draw the cohort's stain vectors, OD before and after, and seam scores; those for which there are numbers."""
    compared = [row.colours for row in rows if row.colours]
    before = _cohort_od([colours.before for colours in compared], "before", reference_od)
    after = _cohort_od([colours.after for colours in compared], "after", reference_od)
    found = [
        chart("Hematoxylin", _SHARE_X, _SHARE_Y, _vectors(rows, reference, 0)),
        chart("Eosin", _SHARE_X, _SHARE_Y, _vectors(rows, reference, 1)),
        chart("Optical density before", _OD, _OD_Y, before),
        chart("Optical density after", _OD, _OD_Y, after),
        chart("Seam score", "slides, by score", "1 is perfect", _seams(rows), counts=True, covers=_SEAMS),
    ]
    return [made for made in found if made]


def od_chart(row: SlideRow, reference_od: Sequence[float]) -> Chart | None:
    """Draw one slide's OD before and after, over the reference's."""
    if row.colours is None:
        return None
    series = [Series("reference", "reference", _histogram(reference_od), "area")] if reference_od else []
    series += [
        Series("before", "before", _histogram(row.colours.before), "steps"),
        Series("after", "after", _histogram(row.colours.after), "steps"),
    ]
    return chart("Optical density", _OD, _OD_Y, series, covers=(0.0,))


def stain_table(row: SlideRow, reference: StainStatistics | None) -> list[Line]:
    """Format a slide's stain statistics, before and after, beside the reference's."""
    after = row.colours.stain if row.colours else None
    columns = (row.stain, after, reference)

    def level_line(name: str, attribute: str) -> Line:
        return Line(name, *(f"{getattr(stain, attribute):.2f}" if stain else "" for stain in columns))

    lines = [Line("white, R G B", *(_numbers(stain.white, "{:.0f}") if stain else "" for stain in columns))]
    for place, name in enumerate(_STAINS):
        vectors = [stain.vectors[place] if stain else None for stain in columns]
        lines.append(Line(f"{name}, OD R G B", *(_numbers(vector, "{:.2f}") if vector else "" for vector in vectors)))
        if reference:
            old, new = (
                f"{angle_deg(vector, reference.vectors[place]):.1f}°" if vector else "" for vector in vectors[:2]
            )
            lines.append(Line("its angle to the reference's", old, new, ""))
    for name, attribute in _LEVELS.items():
        lines.append(level_line(name, attribute))
    for place, name in enumerate(_STAINS if reference else ()):
        gains = [stain_gains(stain, reference)[place] if stain and reference else None for stain in columns[:2]]
        old, new = ("" if gain is None else f"{gain:.2f}" for gain in gains)
        lines.append(Line(f"gain of {name}", old, new, ""))
    return [found for found in lines if any(found[1:])]


def _numbers(values: Rgb, form: str) -> str:
    return " ".join(form.format(value) for value in values)


def _vectors(rows: Sequence[SlideRow], reference: StainStatistics | None, place: int) -> Iterator[Series]:
    """Yield a stain's vectors by the shares of red and blue in their OD, in percent."""
    before = [_od_shares(row.stain.vectors[place]) for row in rows if row.stain]
    after = [_od_shares(row.colours.stain.vectors[place]) for row in rows if row.colours and row.colours.stain]
    moved = [
        _od_shares(stain.vectors[place])
        for row in rows
        if row.stain and row.colours and row.colours.stain
        for stain in (row.stain, row.colours.stain)
    ]
    if len(moved) <= 2 * _MOST_ARROWS:
        yield Series("", "move", moved, "intervals")
    yield Series("before", "before", before, "points")
    yield Series("after", "after", after, "points")
    if reference:
        yield Series("reference", "reference", [_od_shares(reference.vectors[place])], "points")


def _od_shares(vector: Rgb) -> Point:
    total = sum(vector)
    return 100 * vector[0] / total, 100 * vector[2] / total


def _cohort_od(histograms: Sequence[Sequence[float]], kind: str, reference_od: Sequence[float]) -> Iterator[Series]:
    if histograms and reference_od:
        yield Series("reference", "reference", _histogram(reference_od), "area")
    for histogram in histograms:
        yield Series(f"each slide {kind}", f"{kind} many", _histogram(histogram), "steps")


def _histogram(shares: Sequence[float]) -> list[Point]:
    """Return left edges of the bins in OD with their shares in percent, and the last bin's right edge."""
    edges = [(number * BIN, 100 * share) for number, share in enumerate(shares)]
    return [*edges, (len(shares) * BIN, 0.0)]


def _seams(rows: Sequence[SlideRow]) -> Iterator[Series]:
    scores = sorted((row.seam for row in rows if row.seam), key=lambda seam: seam.score)
    if not scores:
        return
    yield Series("1: no line shows", "reference", [(0.5, 1.0), (len(scores) + 0.5, 1.0)])
    ends = [(float(place), end) for place, seam in enumerate(scores, start=1) for end in (seam.low, seam.high)]
    yield Series("95 % interval", "after", ends, "intervals")
    yield Series("score", "after", [(float(place), seam.score) for place, seam in enumerate(scores, start=1)], "points")
