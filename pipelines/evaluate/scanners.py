"""`evaluate scanners`: the same places by several scanners, in every direction; a table with intervals by slide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from pipelines.evaluate.directions import Direction, name_of
from pipelines.evaluate.methods import require_extras
from pipelines.evaluate.pairs import warn_of_shift
from pipelines.evaluate.results import checkpoint_facts, describe_estimate, print_files, write_estimates, write_record
from pipelines.run_directory.workspace import Workspace
from pipelines.shared.config import RunConfig
from pipelines.shared.progress import Progress
from pipelines.shared.tables import Column, print_table
from wsi_stain.core.errors import ConfigError
from wsi_stain.core.lease import lease
from wsi_stain.core.text import write_table
from wsi_stain.evaluation.figures import write_intervals
from wsi_stain.evaluation.intervals import Estimate, Shares, count_shares, estimate_methods
from wsi_stain.evaluation.pairs import PairScores, summarize
from wsi_stain.executor import Executor, open_executor

_SCORES = {
    "ciede2000": "CIEDE2000",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "lab_wasserstein_64": "Lab-W, 64 px",
    "structure": "structure",
}

Directions = Mapping[tuple[str, str], Mapping[str, PairScores]]
"""By source and truth, the scores of each slide."""


@dataclass(frozen=True)
class Request:
    """Arguments of `wsi-stain evaluate scanners`.

    Attributes:
        stores: A tile store of each scanner, of the same slides under the same names, pixel on pixel.
        checkpoints: A generator trained on a scanner's stain, by the name of its store.
        modes: Modes to compare checkpoints in.
        baselines: Which classical methods to compare; none named means all.
        out: Where results go.
        config: Where the work runs.
    """

    stores: Sequence[Path]
    checkpoints: Mapping[str, Path]
    modes: Sequence[str]
    baselines: Sequence[str]
    out: Path
    config: RunConfig


def parse_checkpoints(values: Sequence[str]) -> dict[str, Path]:
    """Return the files of checkpoints by scanner, each given as `SCANNER=FILE`.

    Raises:
        ConfigError: A value is not so.
    """
    pairs = [value.partition("=") for value in values]
    if wrong := [value for value, (name, _, path) in zip(values, pairs, strict=True) if not (name and path)]:
        raise ConfigError(f"--checkpoint {wrong[0]} names no scanner and file", "Give --checkpoint AT2=FILE")
    return {name: Path(path) for name, _, path in pairs}


def run(request: Request, console: Console) -> int:
    """Compare, print, write.

    Returns:
        0, or 3 when some slides were left out.

    Raises:
        ConfigError: There are no two scanners, or a checkpoint belongs to none.
        SlideError: A direction has no slide that can be compared.
    """
    require_extras()
    names = [name_of(store) for store in request.stores]
    if len(set(names)) < max(2, len(names)):
        raise ConfigError(f"Expected stores of several scanners, found {', '.join(names)}", "Give one a scanner")
    if unknown := sorted(request.checkpoints.keys() - set(names)):
        raise ConfigError(f"--checkpoint {unknown[0]}: there is no such scanner", f"Name one of {', '.join(names)}")
    with lease(request.out), Progress(console) as progress, open_executor(request.config.executor) as executor:
        Workspace(request.out).mark()
        directions, expected = _score_directions(request, executor, progress)
    for receipts in directions.values():
        for receipt in receipts.values():
            warn_of_shift(receipt, console)
    _write_results(request, directions, console)
    return 0 if sum(map(len, directions.values())) == expected else 3


def _score_directions(request: Request, executor: Executor, progress: Progress) -> tuple[Directions, int]:
    """Score all directions but those that an earlier run has; returns them, and how many pairs of slides there are."""
    chosen = {(name_of(a), name_of(b)): _direction(request, a, b) for a, b in permutations(request.stores, 2)}
    pairs = {names: each.find_pairs(executor, progress) for names, each in chosen.items()}
    done = {names: kept for names, each in chosen.items() if (kept := each.read_kept(pairs[names]))}
    if done:
        progress.report(f"{len(done)} of {len(chosen)} directions are kept from an earlier run")
    progress.expect("direction", len(chosen) - len(done))
    for number, (names, each) in enumerate(chosen.items(), 1):
        if names not in done:
            progress.report(f"{' to '.join(names)}, {number} of {len(chosen)}")
            done[names] = each.score(pairs[names], executor, progress)
            progress.advance("direction")
    return {names: done[names] for names in chosen}, sum(map(len, pairs.values()))


def _direction(request: Request, source: Path, truth: Path) -> Direction:
    out = request.out / "directions" / f"{name_of(source)}-to-{name_of(truth)}"
    checkpoint = request.checkpoints.get(name_of(truth))
    return Direction(source, truth, checkpoint, request.modes, request.baselines, out, request.config)


def compare_directions(directions: Directions) -> dict[str, dict[str, Estimate]]:
    """Average each score over all directions, each of the same weight, with intervals by slide.

    A method that some direction lacks, as a checkpoint's where not every scanner has one, is left to the table of
    directions.
    """
    slides = sorted({slide for receipts in directions.values() for slide in receipts})
    scored = [receipt["scores"] for receipts in directions.values() for receipt in receipts.values()]
    methods = [method for method in scored[0] if all(method in scores for scores in scored)]
    shares: dict[str, dict[str, Shares]] = {}
    for method in methods:
        shares[method] = {}
        for score in _SCORES:
            cases = [
                (slides.index(slide), cell, value)
                for cell, receipts in enumerate(directions.values())
                for slide, receipt in receipts.items()
                for value in receipt["scores"][method][score]
            ]
            groups, cells, values = (np.array(column) for column in zip(*cases, strict=True))
            shares[method][score] = count_shares(groups, len(slides), cells, values)
    return estimate_methods(shares, ["slide"] * len(slides))


def _write_results(request: Request, directions: Directions, console: Console) -> None:
    estimates, out = compare_directions(directions), request.out
    columns = [Column("method"), *(Column(text, number=True, rank=rank) for rank, text in enumerate(_SCORES.values()))]
    lines = [
        [method, *(describe_estimate(scores.get(name)) for name in _SCORES)] for method, scores in estimates.items()
    ]
    print_table(columns, lines, console)
    write_estimates(out / "scanners.csv", estimates)
    by_direction = {pair: summarize([*receipts.values()]) for pair, receipts in directions.items()}
    names = list(next(iter(next(iter(by_direction.values())).values())))
    table: list[list[Any]] = [
        [*pair, method, *(round(scores[name], 6) if np.isfinite(scores[name]) else None for name in names)]
        for pair, by_method in by_direction.items()
        for method, scores in by_method.items()
    ]
    write_table(out / "directions.csv", ["source", "truth", "method", *names], table)
    facts = {
        "scanners": [name_of(store) for store in request.stores],
        "checkpoints": {name: checkpoint_facts(path) for name, path in request.checkpoints.items()},
    }
    scores = {method: {name: each._asdict() for name, each in by.items()} for method, by in estimates.items()}
    slides = [
        {"slide": slide, "source": source, "truth": truth, "methods": summarize([receipt])}
        for (source, truth), receipts in directions.items()
        for slide, receipt in receipts.items()
    ]
    write_record(out / "scanners.json", scores, facts, slides)
    colours = {method: each["ciede2000"][:3] for method, each in estimates.items()}
    write_intervals(out / "scanners.png", "CIEDE2000 to the other scanner, 95 % by slide", colours)
    print_files(out, console)
