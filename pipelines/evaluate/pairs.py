"""`evaluate pairs`: registered pairs of two laboratories, one normalized by every method, beside the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipelines.evaluate.methods import baselines, checkpoint_methods, require_extras
from pipelines.evaluate.pairing import Pair, Pairing, Pool
from pipelines.evaluate.results import checkpoint_facts, print_files, print_scores, write_record, write_scores
from pipelines.evaluate.tasks import receipts_of, scoring_pool
from pipelines.normalization.target import NormalizationTarget
from pipelines.run_directory.usable_slides import find_usable_slides
from pipelines.run_directory.workspace import Workspace
from pipelines.shared.config import RunConfig
from pipelines.shared.messages import print_warning
from pipelines.shared.progress import Progress
from wsi_stain.core.errors import SlideError
from wsi_stain.core.lease import lease
from wsi_stain.core.storage import StoragePath
from wsi_stain.evaluation.figures import write_points
from wsi_stain.evaluation.methods import Method
from wsi_stain.evaluation.paired_table import CountTask, count_colours
from wsi_stain.evaluation.pairs import PairScores, PairTask, score_pair, summarize
from wsi_stain.executor import WHOLE_SLIDE, Executor, Task, open_executor
from wsi_stain.stain.pool import pool_stains
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import StoredSlide

HEADINGS = {
    "ciede2000": "CIEDE2000",
    "gap_ciede2000": "of the gap",
    "worst_decile": "worst decile",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "lab_wasserstein_64": "Lab-W, 64 px",
    "structure": "structure",
    "texture": "texture",
    "nuclear_contrast": "nuclear contrast",
    "nuclear_dark": "dark nuclei",
}
_BLOCKS = 10
_SHIFT_PX = 1.0


@dataclass(frozen=True)
class Request:
    """Arguments of `wsi-stain evaluate pairs`.

    Attributes:
        source: Slides or patches of one laboratory.
        truth: The same tissue in the reference's stain.
        checkpoint: A trained generator to compare.
        modes: Modes to compare it in.
        baselines: Which classical methods to compare; none named means all.
        normalized: The source as it was normalized before.
        reference: Tile store that the classical methods are fitted to; None takes the truth itself.
        patch_mpp: Resolution of patches, um per px.
        pool: Which sources share stain statistics.
        out: Where results go.
        config: How slides are tiled and where the work runs.
    """

    source: Path
    truth: Path
    checkpoint: Path | None
    modes: Sequence[str]
    baselines: Sequence[str]
    normalized: Path | None
    reference: StoragePath | None
    patch_mpp: float | None
    pool: Pool
    out: Path
    config: RunConfig


def run(request: Request, console: Console) -> int:
    """Compare, print, write.

    Returns:
        0, or 3 when some pairs were left out.

    Raises:
        ConfigError: There are no pairs.
        SlideError: None of them can be compared.
    """
    require_extras()
    trained_methods = checkpoint_methods(request.checkpoint, request.modes, request.config.executor)
    with (
        lease(request.out),
        Progress(console) as progress,
        open_executor(request.config.executor, request.out / "logs") as executor,
    ):
        Workspace(request.out).mark()
        pairing = Pairing(request.out / "work", request.config, request.patch_mpp, request.pool, executor, progress)
        pairs = pairing.find(request.source, request.truth, request.normalized)
        if request.reference is None:
            references = [StoredSlide(pair.truth) for pair in pairs.values()]
        else:
            references = find_usable_slides(request.reference).slides
        methods = [*baselines(references, request.baselines, request.out), *trained_methods]
        stain = reference_stain(request.checkpoint, references)
        receipts = score_pairs(pairs, methods, stain, request.out, executor, progress)
    for receipt in receipts.values():
        warn_of_shift(receipt, console)
    _write_results(request, references, list(receipts.values()), console)
    return 0 if len(receipts) == len(pairs) else 3


def reference_stain(checkpoint: Path | None, references: Sequence[StoredSlide]) -> StainStatistics:
    """Return the reference for statistics alone: the checkpoint's, else that of the classical methods."""
    if checkpoint is not None:
        return NormalizationTarget.load(checkpoint).reference
    return pool_stains([slide.require_stain() for slide in references])


def score_pairs(
    pairs: Mapping[str, Pair],
    methods: Sequence[Method],
    reference: StainStatistics,
    out: Path,
    executor: Executor,
    progress: Progress,
) -> dict[str, PairScores]:
    """Score pairs by name; those that cannot be compared are reported and left out.

    Args:
        pairs: The pairs.
        methods: What is compared.
        reference: Stain that the statistics alone bring a source to.
        out: Where pictures and counts go.
        executor: Where the work runs.
        progress: Where it is shown.

    Raises:
        SlideError: None of them can be compared.
    """
    counts = _count_colours(pairs, out, executor, progress) if len(pairs) > 1 else dict.fromkeys(pairs)
    tasks = {
        name: PairTask(
            name=name,
            source=pairs[name].source,
            truth=pairs[name].truth,
            methods=methods,
            stain=pairs[name].stain,
            reference=reference,
            others=[path for other, path in counts.items() if path and other != name],
            normalized=pairs[name].normalized,
            blocks=_BLOCKS,
            strip=out / "strips" / f"{pairs[name].source.name}.png",
        )
        for name in counts
    }
    pool = scoring_pool(methods)
    named = {name: Task(score_pair, task, "score", WHOLE_SLIDE, pool) for name, task in tasks.items()}
    receipts = receipts_of(executor, named, progress)
    if not receipts:
        raise SlideError(f"None of the {len(pairs)} pairs could be compared", "See the reasons above")
    return receipts


def _count_colours(
    pairs: Mapping[str, Pair], out: Path, executor: Executor, progress: Progress
) -> dict[str, Path | None]:
    """Count the colours of each pair that can be compared."""
    tasks = {
        name: CountTask(pair.source, pair.truth, _BLOCKS, out / "work" / "colours" / f"{pair.source.name}.npz")
        for name, pair in pairs.items()
    }
    done = receipts_of(
        executor, {name: Task(count_colours, task, "count", WHOLE_SLIDE) for name, task in tasks.items()}, progress
    )
    return {name: tasks[name].out for name in done}


def warn_of_shift(receipt: PairScores, console: Console) -> None:
    """Warn of a pair that does not lie pixel on pixel."""
    shift = receipt["shift_px"]
    if shift is None or shift > _SHIFT_PX:
        problem = "do not show the same tissue" if shift is None else f"lie {shift:.1f} px apart"
        print_warning(console, f"{receipt['name']}: the two {problem}; register them")


def _write_results(
    request: Request, references: Sequence[StoredSlide], receipts: Sequence[PairScores], console: Console
) -> None:
    rows, out = summarize(receipts), request.out
    slides = [
        {"slide": receipt["name"], "shift_px": receipt["shift_px"], "methods": summarize([receipt])}
        for receipt in receipts
    ]
    facts = {
        "source": request.source.name,
        "truth": request.truth.name,
        "reference": [slide.record.relative for slide in references],
        "checkpoint": checkpoint_facts(request.checkpoint),
        "pool": request.pool,
    }
    print_scores(rows, HEADINGS, console)
    write_scores(out / "pairs.csv", rows)
    write_record(out / "pairs.json", rows, facts, slides)
    panels = {
        title: {name: [value for each in receipts for value in each["scores"][name][score]] for name in rows}
        for score, title in (("ciede2000", "CIEDE2000 to the truth"), ("ssim", "SSIM to the truth"))
    }
    write_points(out / "pairs.png", panels)
    print_files(out, console)
