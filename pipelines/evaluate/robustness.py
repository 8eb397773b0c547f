"""`evaluate robustness`: does normalization help a cohort of several centres? An encoder's features, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from pipelines.evaluate.cohort_features import CohortFeatures, Stores, Tables
from pipelines.evaluate.methods import require_extras
from pipelines.evaluate.results import checkpoint_facts, describe_estimate, print_files, write_estimates, write_record
from pipelines.run_directory.workspace import Workspace
from pipelines.shared.config import RunConfig
from pipelines.shared.messages import print_line
from pipelines.shared.progress import Progress
from pipelines.shared.tables import Column, print_table
from wsi_stain.core.lease import lease
from wsi_stain.core.text import write_table
from wsi_stain.evaluation.figures import write_intervals
from wsi_stain.evaluation.robustness.scores import SCORES, Comparison, compare_features
from wsi_stain.evaluation.robustness.verdict import Verdict, judge
from wsi_stain.executor import open_executor

_HEADINGS = {
    "robustness": "robustness",
    "centre": "centre told",
    "biology": "biology",
    "transfer": "elsewhere",
    "top1": "top 1",
    "top10": "top 10",
}


@dataclass(frozen=True)
class Request:
    """Arguments of `wsi-stain evaluate robustness`.

    Attributes:
        source: Stores of patches, or their ready features.
        neighbours: How many neighbours count for the robustness index; None chooses.
        out: Where results go.
        config: Where the work runs.
    """

    source: Stores | Tables
    neighbours: int | None
    out: Path
    config: RunConfig


def run(request: Request, console: Console) -> int:
    """Compare, print, write.

    Returns:
        0, or 3 when some slides or methods were left out.

    Raises:
        ConfigError: The slides or features do not suffice.
    """
    require_extras()
    with lease(request.out), Progress(console) as progress, open_executor(request.config.executor) as executor:
        Workspace(request.out).mark()
        match request.source:
            case Stores() as stores:
                cohort = stores.encode(request.out, request.config, executor, progress)
            case Tables() as tables:
                cohort = tables.read()
        progress.report(f"comparing {len(cohort.features)} rows of {len(cohort.patches.centre)} patches")
        comparison = compare_features(cohort.features, cohort.patches, request.neighbours)
    verdicts = {
        method: judge(scores, cohort.patches.groups_of_centres)
        for method, scores in list(comparison.scores.items())[1:]
    }
    _print(cohort, comparison, verdicts, console)
    _write(request, cohort, comparison, verdicts)
    print_files(request.out, console)
    return 0 if cohort.is_whole else 3


def _print(cohort: CohortFeatures, comparison: Comparison, verdicts: Mapping[str, Verdict], console: Console) -> None:
    seen = [name for name in SCORES if any(name in scores for scores in comparison.scores.values())]
    columns = [Column("method"), *(Column(_HEADINGS[name], number=True, rank=rank) for rank, name in enumerate(seen))]
    lines = [
        [method, *(describe_estimate(scores.get(name)) for name in seen)]
        for method, scores in comparison.scores.items()
    ]
    print_table(columns, lines, console)
    groups = ", ".join(f"{name}: {count}" for name, count in cohort.patches.groups_of_centres.items())
    print_line(console, f"encoder: {cohort.encoder}; patients or slides: {groups}")
    if comparison.by_chance is not None:
        chance = f"features that say nothing would have {comparison.by_chance:.3f}"
        print_line(console, f"robustness index of {comparison.k} neighbours; {chance}")
    if cohort.patches.labels and not comparison.within_centres:
        print_line(console, "no centre has two labels: biology and centre cannot be told apart, whatever a score says")
    for method, verdict in verdicts.items():
        print_line(console, f"{method}: {verdict.word}: {verdict.reason}")


def _write(request: Request, cohort: CohortFeatures, comparison: Comparison, verdicts: Mapping[str, Verdict]) -> None:
    out, patches = request.out, cohort.patches
    write_estimates(out / "robustness.csv", comparison.scores)
    write_table(
        out / "verdict.csv",
        ["method", "verdict", "reason"],
        [[method, verdict.word, verdict.reason] for method, verdict in verdicts.items()],
    )
    facts = {
        "checkpoint": checkpoint_facts(request.source.checkpoint) if isinstance(request.source, Stores) else None,
        "encoder": cohort.encoder,
        "reference": cohort.reference,
        "patches": len(patches.centre),
        "labels": list(patches.labels),
        "groups": dict(patches.groups_of_centres),
        "neighbours": comparison.k,
        "robustness_by_chance": comparison.by_chance,
        "biology_within_centres": comparison.within_centres,
        "verdicts": {method: asdict(verdict) for method, verdict in verdicts.items()},
    }
    scores = {
        method: {name: estimate._asdict() for name, estimate in each.items()}
        for method, each in comparison.scores.items()
    }
    write_record(out / "robustness.json", scores, facts, [])
    intervals = {
        method: (each["robustness"].value, each["robustness"].low, each["robustness"].high)
        for method, each in comparison.scores.items()
        if "robustness" in each
    }
    if intervals:
        write_intervals(out / "robustness.png", "robustness index, 95 % by patient or slide", intervals, (0, 1))
