"""How a cohort gave its own reference, in a chart and in colours. Knows no slides or files."""

from __future__ import annotations

from markupsafe import Markup

from wsi_stain.cohort.reference import Candidate, ReferenceChoice, stain_colours
from wsi_stain.report.charts import Chart, Point, Series, chart

_WIDTH, _HEIGHT = 26, 16


def choice_chart(choice: ReferenceChoice) -> Chart | None:
    """Draw the cohort by the levels of its two stains, and mark the choice."""

    def levels(unfit: bool) -> list[Point]:
        chosen = [each for each in choice.candidates if bool(each.unfit) == unfit and each.stain]
        return [(each.stain.h_nuclei, each.stain.e_stroma) for each in chosen if each.stain]

    series = [
        Series("unfit", "before", levels(unfit=True), "points"),
        Series("fit", "after", levels(unfit=False), "points"),
        Series("the reference", "reference", levels(unfit=False)[:1], "points"),
    ]
    return chart("Stain of the slides", "hematoxylin in nuclei, OD", "eosin in stroma, OD", series)


def stain_swatches(candidate: Candidate) -> Markup:
    """Draw the colours of a slide's nuclei, stroma and glass side by side, as SVG; nothing where they are unknown."""
    if candidate.stain is None:
        return Markup("")
    boxes = [
        Markup('<rect x="{}" y="0" width="{}" height="{}" fill="rgb({},{},{})"/>').format(
            place * _WIDTH, _WIDTH, _HEIGHT, *colour
        )
        for place, colour in enumerate(stain_colours(candidate.stain).tolist())
    ]
    frame = Markup('<svg class="colours" viewBox="0 0 {} {}" role="img" aria-label="nuclei, stroma, glass">{}</svg>')
    return frame.format(3 * _WIDTH, _HEIGHT, Markup("").join(boxes))
