"""The rule of the verdict, case by case."""

from __future__ import annotations

import pytest

from wsi_stain.evaluation.intervals import Estimate
from wsi_stain.evaluation.robustness.verdict import judge

MANY = {"a": 8, "b": 8}


def change(low: float, high: float, middle: float | None = None) -> Estimate:
    return Estimate(0.7, 0.6, 0.8, (low + high) / 2 if middle is None else middle, low, high)


NOTHING = change(-0.02, 0.02)

CASES = {
    "harms": [
        {"biology": change(-0.1, -0.01), "robustness": change(0.1, 0.2)},
        {"biology": NOTHING, "transfer": change(-0.1, -0.01), "robustness": change(0.1, 0.2)},
    ],
    "helps": [
        {"biology": NOTHING, "robustness": change(0.01, 0.2)},
        {"biology": change(-0.1, 0.1), "transfer": change(0.01, 0.2)},
        {"biology": change(-0.03, 0.01, -0.01), "robustness": change(0.01, 0.2)},
    ],
    "makes no difference": [
        {"biology": NOTHING, "robustness": NOTHING, "transfer": NOTHING},
        {"biology": change(-0.04, 0.01, -0.02), "robustness": change(0.01, 0.04)},  # costs more than a point
    ],
    "too few slides to tell": [
        {"biology": NOTHING, "robustness": change(-0.1, 0.2)},
        {"robustness": change(0.1, 0.2)},
    ],
}


@pytest.mark.parametrize(("word", "scores"), [(word, scores) for word, many in CASES.items() for scores in many])
def test_the_rule(word: str, scores: dict[str, Estimate]) -> None:
    verdict = judge(scores, MANY)
    assert verdict.word == word, verdict.reason


def test_few_slides_never_tell() -> None:
    verdict = judge({"biology": change(-0.2, -0.1)}, {"a": 8, "b": 4})
    assert verdict.word == "too few slides to tell" and "b has 4" in verdict.reason
