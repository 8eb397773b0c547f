"""Which slides stand out, and why."""

from __future__ import annotations

from typing import Any

import pytest

from tests.report.test_report import STAIN
from wsi_stain.metrics.chromatin import NuclearDetail
from wsi_stain.metrics.seams import SeamScore
from wsi_stain.report.outliers import BEYOND, FEWEST, score_outliers
from wsi_stain.results import SlideRow
from wsi_stain.results.slide_row import Colours, NuclearChange

CHANGE = {"before": (), "after": (), "change": 5.0, "change_by_statistics": 4.0}


def row(**more: Any) -> SlideRow:
    return SlideRow(slide="a", slide_id="a", status="done", stain=STAIN).model_copy(update=more)


def stain(**more: Any) -> dict[str, Any]:
    return {"stain": STAIN.model_copy(update=more)}


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (stain(white=(170.0, 170.0, 170.0)), "white, grey levels: 170"),
        (stain(vectors=((0.4, 0.8, 0.45), STAIN.vectors[1])), "angle of hematoxylin"),
        (stain(vectors=(STAIN.vectors[0], (0.4, 0.9, 0.2))), "angle of eosin"),
        (stain(h_nuclei=4.0), "hematoxylin in nuclei, doublings: 2, the others' median is 0"),
        (stain(e_stroma=0.1), "eosin in stroma"),
        ({"hallucination_p95": 14.0}, "unexplained change, CIEDE2000: 14, the others' median is 3"),
        ({"table_distance": 4.0}, "table's distance"),
        ({"colours": Colours(**CHANGE, **stain(h_nuclei=3.0))}, "hematoxylin after"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_slide_far_from_the_others_says_in_what(odd: dict[str, Any], reason: str) -> None:
    usual = {
        "hallucination_p95": 3.0,
        "table_distance": 1.0,
        "colours": Colours(stain=STAIN, **CHANGE),
    }
    found = score_outliers([row(**usual) for _usual in range(8)] + [row(**(usual | odd))])
    assert [standing.score for standing in found[:-1]] == [0.0] * 8
    assert found[-1].score > BEYOND
    assert len(found[-1].reasons) == 1
    assert found[-1].reasons[0].startswith(reason)


def test_the_score_is_the_modified_z_score() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 30.0]
    found = score_outliers([row(hallucination_p95=value) for value in values])
    assert found[-1].score == round(0.6745 * (30 - 3) / 1.0, 2)


def test_little_unexplained_change_is_no_reason_to_look() -> None:
    found = score_outliers([row(hallucination_p95=value) for value in (9.0, 9.0, 9.0, 9.0, 0.0)])
    assert not any(standing.score for standing in found)


def test_few_slides_are_not_compared() -> None:
    rows = [row()] * (FEWEST - 2) + [row(**stain(white=(150.0, 150.0, 150.0)))]
    assert not any(standing.score for standing in score_outliers(rows))


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({"status": "done-with-holes", "reason": "3 tiles"}, "holes: 3 tiles"),
        ({"reason": "12 % of the tissue"}, "12 % of the tissue"),
        ({"suspect": 4}, "4 tiles taken for glass look as if they had tissue"),
        ({"seam": SeamScore(score=1.1, low=1.06, high=1.2)}, "lines may show: seam score 1.100"),
    ],
    ids=["holes", "reason", "suspect", "seam"],
)
def test_what_a_slide_says_outright_counts_even_alone(found: dict[str, Any], reason: str) -> None:
    (standing,) = score_outliers([row(**found)])
    assert standing.score >= BEYOND
    assert standing.reasons[0].startswith(reason)


def test_a_seam_score_that_may_be_nearly_one_is_fine() -> None:
    assert score_outliers([row(seam=SeamScore(score=1.06, low=1.04, high=1.08))])[0].score == 0


def test_a_table_draws_no_lines() -> None:
    seam = SeamScore(score=1.1, low=1.06, high=1.2)
    assert score_outliers([row(seam=seam, table_distance=1.0)])[0].score == 0


def test_slides_without_numbers_do_not_stand_out() -> None:
    bare = SlideRow(slide="b", slide_id="b", status="failed")
    assert [standing.score for standing in score_outliers([bare] * 6)] == [0.0] * 6


@pytest.mark.parametrize(("contrast", "score"), [(9.0, 0.0), (6.0, BEYOND)])
def test_nuclei_that_closed_stand_out(contrast: float, score: float) -> None:
    before, after = (NuclearDetail(contrast=value, dark=0, luminance=90) for value in (10.0, contrast))
    found = score_outliers([row(nuclei=NuclearChange(before=before, after=after))])[0]
    assert found.score == score
    assert [reason for reason in found.reasons if "nuclei may have closed: 0.60" in reason] == list(found.reasons)
