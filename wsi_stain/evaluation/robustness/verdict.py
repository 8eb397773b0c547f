"""The verdict in words: does normalization help this cohort? Its rule is written here, and in docs/evaluate.md.

too few slides to tell   a centre has fewer than five patients (slides, where none are known), or nothing below
                         holds and an interval reaches beyond five points
harms                    biology falls, within centres or from one to another, and the interval excludes 0
helps                    the robustness index, or the transfer of biology, rises and the interval excludes 0; and
                         biology within a centre loses at most one point
makes no difference      else
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from wsi_stain.evaluation.intervals import Estimate

Word = Literal["helps", "harms", "makes no difference", "too few slides to tell"]

LEAST_GROUPS = 5
"""Fewest groups of a centre that a bootstrap can say something about."""

MOST_LOST = 0.01
"""Largest loss of biology within a centre that a help may cost."""

MATTERS = 0.05
"""A change that would matter: where an interval reaches further, nothing is known of it."""

NAMES = {
    "robustness": "the robustness index",
    "transfer": "biology in another centre",
    "biology": "biology",
}


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a method.

    Attributes:
        word: The verdict.
        reason: Why, in words and numbers.
    """

    word: Word
    reason: str


def judge(scores: Mapping[str, Estimate], groups_of_centres: Mapping[str, int]) -> Verdict:
    """Judge one method by its scores, `NAMES` among them, and the number of groups of each centre."""
    known = {name: scores[name] for name in NAMES if name in scores}
    scarce = {name: count for name, count in groups_of_centres.items() if count < LEAST_GROUPS}
    if scarce:
        counts = ", ".join(f"{name} has {count}" for name, count in scarce.items())
        return Verdict(
            "too few slides to tell", f"{counts} patients or slides, and at least {LEAST_GROUPS} are wanted of each"
        )
    if "biology" not in known:
        return Verdict("too few slides to tell", "no label has two patients or slides beside another of as many")
    fallen = [name for name in ("biology", "transfer") if name in known and known[name].change_high < 0]
    if fallen:
        return Verdict("harms", "; ".join(_describe(name, known[name]) for name in fallen))
    risen = [name for name in ("robustness", "transfer") if name in known and known[name].change_low > 0]
    if risen and known["biology"].change >= -MOST_LOST:
        return Verdict("helps", "; ".join(_describe(name, known[name]) for name in (*risen, "biology")))
    wide = [name for name, each in known.items() if _reach(each) > MATTERS]
    everything = "; ".join(_describe(name, each) for name, each in known.items())
    return Verdict("too few slides to tell" if wide else "makes no difference", everything)


def _reach(score: Estimate) -> float:
    return max(abs(score.change_low), abs(score.change_high))


def _describe(name: str, score: Estimate) -> str:
    verb = "rises" if score.change > 0 else "falls" if score.change < 0 else "stays"
    amount = f" by {abs(score.change):.3f}" if score.change else ""
    interval = f"{score.change_low:+.3f} to {score.change_high:+.3f}"
    return f"{NAMES[name]} {verb}{amount} ({interval}), to {score.value:.3f}"
