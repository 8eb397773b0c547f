"""The cohort's own reference on the page: its reason, and the colours of all slides with the choice marked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.cohort.test_reference import LADDER
from tests.report.test_report import Page
from wsi_stain.cohort.reference import choose_reference, stain_colours
from wsi_stain.report import RunRecord, write_report
from wsi_stain.report.choice import choice_chart, stain_swatches


def test_the_page_shows_every_slide_and_marks_the_choice(tmp_path: Path) -> None:
    pen = replace(LADDER[4], ink=0.2)
    unmeasured = replace(LADDER[0], slide_id="x", slide="<x>.svs", stain=None, problem="Not H&E")
    choice = choose_reference([*LADDER[:4], pen, unmeasured])
    write_report(tmp_path, [], lambda row: row, RunRecord(choice=choice))
    page = Page(tmp_path / "report" / "index.html")
    assert f"{choice.reason}." in page.text
    assert f"{choice.chosen.slide} {choice.chosen.distance:.1f} the reference" in page.text
    assert "dark.svs pen or dark over 20.0% of its tissue's area" in page.text
    assert "<x>.svs Not H&E" in page.text, "names are text"
    assert len([each for each in page.all("svg") if each.get("class") == "colours"]) == 5, "one is not measured"


def test_swatches_have_the_slides_own_colours() -> None:
    chosen = choose_reference(LADDER).chosen
    assert chosen.stain
    for red, green, blue in stain_colours(chosen.stain).tolist():
        assert f"rgb({red},{green},{blue})" in stain_swatches(chosen)


def test_the_chart_tells_fit_from_unfit() -> None:
    drawn = choice_chart(choose_reference([*LADDER[:4], replace(LADDER[4], ink=0.2)]))
    assert drawn
    assert {series.name: len(series.dots) for series in drawn.drawn} == {"unfit": 1, "fit": 4, "the reference": 1}
