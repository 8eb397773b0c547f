"""`evaluate transfer`: a classifier of one laboratory's labelled patches, tested on another's by every method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from pipelines.evaluate.methods import baselines, checkpoint_methods, require_extras
from pipelines.evaluate.results import checkpoint_facts, print_files, print_scores, write_record, write_scores
from pipelines.evaluate.shown_patches import ShownPatches, drop_empty, group_of, keep_common_slides, name_of
from pipelines.run_directory.usable_slides import find_usable_slides
from pipelines.run_directory.workspace import Workspace
from pipelines.shared.config import RunConfig
from pipelines.shared.device import own_device
from pipelines.shared.progress import Progress
from wsi_stain.core.errors import ConfigError
from wsi_stain.core.lease import lease
from wsi_stain.core.storage import StoragePath
from wsi_stain.evaluation.auc import Auc, auc, compare_methods
from wsi_stain.evaluation.classifier import ClassifierConfig, classify, make_network, train_classifier
from wsi_stain.evaluation.figures import write_intervals
from wsi_stain.evaluation.labelled import LABELS, PIXELS
from wsi_stain.evaluation.methods import UNTOUCHED, Method
from wsi_stain.executor import Executor, open_executor
from wsi_stain.store import StoredSlide
from wsi_stain.store.artifact import load_artifact

HEADINGS = {
    "auc": "AUC",
    "low": "95 % from",
    "high": "to",
    "seed_sd": "SD of seeds",
    "gain_low": "gain from",
    "gain_high": "to ",
}
OWN = "own laboratory, held out"
"""The row of the training laboratory's own slides that were not trained on."""

_HELD_OUT = 0.25


@dataclass(frozen=True)
class Request:
    """Arguments of `wsi-stain evaluate transfer`.

    Attributes:
        train: Labelled tile store of the laboratory that the classifier is trained on; also the methods' reference.
        test: Labelled tile store of the other one.
        checkpoint: A generator trained on the first one's stain.
        modes: Modes to compare it in.
        baselines: Which classical methods to compare; none named means all.
        positive: The label to find; None where there are two, of which the last in order is meant.
        seeds: How many classifiers are trained, each with its own split and start.
        patches: Most patches of a slide.
        classifier: How they are trained.
        out: Where results go.
        config: Where the work runs.
    """

    train: StoragePath
    test: StoragePath
    checkpoint: Path | None
    modes: Sequence[str]
    baselines: Sequence[str]
    positive: str | None
    seeds: int
    patches: int
    classifier: ClassifierConfig
    out: Path
    config: RunConfig


class Labelled(NamedTuple):
    """Patches of several slides.

    Attributes:
        pixels: RGB, (n, side, side, 3).
        labels: (n,).
        slides: (n,), which slide each is of.
        groups: (n,), whose it is: a patient's, or where none is known a slide's.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.str_]
    slides: NDArray[np.str_]
    groups: NDArray[np.str_]


def run(request: Request, console: Console) -> int:
    """Train, test, print, write.

    Returns:
        0, or 3 when some slides or methods were left out.

    Raises:
        ConfigError: The labels or slides do not suffice.
    """
    require_extras()
    make_network(request.classifier.backbone)
    trained_methods = checkpoint_methods(request.checkpoint, request.modes, request.config.executor)
    own, other = (find_usable_slides(store).slides for store in (request.train, request.test))
    with (
        lease(request.out),
        Progress(console) as progress,
        open_executor(request.config.executor, request.out / "logs") as executor,
    ):
        Workspace(request.out).mark()
        methods: list[Method | None] = [None, *baselines(own, request.baselines, request.out), *trained_methods]
        train, test = (_shown_patches(request, side, executor, progress) for side in ("train", "test"))
        train_patches = _load_patches(train.show(own, None), own)
        files = {name_of(method): test.show(other, method) for method in methods}
        rows = drop_empty(files, progress)
        usable = keep_common_slides(other, rows)
        test_patches = {name: _load_patches(by_slide, usable) for name, by_slide in rows.items()}
        positive = _positive(request, train_patches, test_patches[UNTOUCHED])
        results = _test_methods(request, train_patches, test_patches, positive, progress)
    _write_results(request, results, positive, {"train": train_patches, "test": test_patches[UNTOUCHED]}, console)
    trained_on_all = set(train_patches.groups) == {group_of(slide) for slide in own}
    return 0 if trained_on_all and len(usable) == len(other) and len(rows) == len(files) else 3


def _shown_patches(request: Request, side: str, executor: Executor, progress: Progress) -> ShownPatches:
    folder = request.out / "work" / "patches" / side
    return ShownPatches(folder, request.classifier.side, request.patches, False, executor, progress)


def _load_patches(files: Mapping[str, Path], slides: Sequence[StoredSlide]) -> Labelled:
    chosen = [slide for slide in slides if slide.slide_id in files]
    if not chosen:
        raise ConfigError("No slide has labelled patches", "Import some: wsi-stain import idc|pcam|images")
    arrays = [load_artifact(files[slide.slide_id]) for slide in chosen]
    counts = [len(each[LABELS]) for each in arrays]
    pixels, labels = (np.concatenate([each[name] for each in arrays]) for name in (PIXELS, LABELS))
    ids, groups = np.repeat([[slide.slide_id, group_of(slide)] for slide in chosen], counts, axis=0).T
    return Labelled(pixels, labels, ids, groups)


def _positive(request: Request, train: Labelled, test: Labelled) -> str:
    """Return the label to find; ConfigError where it is not clear, or one side lacks it or all others."""
    labels = sorted({*train.labels.tolist(), *test.labels.tolist()})
    if request.positive is None and len(labels) != 2:
        raise ConfigError(f"There are {len(labels)} labels ({', '.join(labels)}), expected 2", "Give --positive LABEL")
    positive = labels[-1] if request.positive is None else request.positive
    for store, labelled in ((request.train, train), (request.test, test)):
        if len(set(labelled.labels == positive)) < 2:
            raise ConfigError(
                f"{store} does not have patches with and without the label {positive}", "Check the labels"
            )
    return positive


def _test_methods(
    request: Request, train: Labelled, test_patches: Mapping[str, Labelled], positive: str, progress: Progress
) -> dict[str, Auc]:
    """Train a classifier a seed, each on other slides; test all of them on everything."""
    progress.expect("train", request.seeds * request.classifier.epochs)
    is_positive, where = train.labels == positive, own_device(request.config.executor)
    scores: dict[str, list[NDArray[np.float64]]] = {name: [] for name in test_patches}
    areas = []
    for seed in range(request.seeds):
        held_out = split(train.groups, is_positive, seed)
        network = train_classifier(
            train.pixels[~held_out],
            is_positive[~held_out],
            request.classifier,
            seed,
            where,
            lambda: progress.advance("train"),
        )
        own = classify(network, train.pixels[held_out], where)
        areas.append(auc(is_positive[held_out], own))
        for name, labelled in test_patches.items():
            scores[name].append(classify(network, labelled.pixels, where))
    test = test_patches[UNTOUCHED]
    spread = float(np.std(areas, ddof=1)) if len(areas) > 1 else float("nan")
    own_row = Auc(float(np.mean(areas)), spread, *(float("nan"),) * 4)
    return {OWN: own_row, **compare_methods(test.labels == positive, test.groups.tolist(), scores)}


def split(groups: NDArray[np.str_], is_positive: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """Choose the patches, (n,), of about a quarter of the groups, so that either side has both labels.

    Raises:
        ConfigError: No split leaves both labels on either side.
    """
    names, rng = np.unique(groups), np.random.default_rng(seed)
    for _ in range(100):
        held_out = np.isin(groups, rng.permutation(names)[: max(1, round(_HELD_OUT * len(names)))])
        if all(len(set(side.tolist())) == 2 for side in (is_positive[held_out], is_positive[~held_out])):
            return held_out
    raise ConfigError(
        f"The {len(names)} slides cannot be split so that both sides have both labels", "Import more slides to train on"
    )


def _write_results(
    request: Request, results: Mapping[str, Auc], positive: str, sides: Mapping[str, Labelled], console: Console
) -> None:
    rows, out = {name: fields._asdict() for name, fields in results.items()}, request.out
    stores = {"train": request.train, "test": request.test}
    facts = {
        "checkpoint": checkpoint_facts(request.checkpoint),
        "classifier": request.classifier.model_dump(mode="json"),
        "seeds": request.seeds,
        "positive": positive,
    } | {
        name: {"store": stores[name].name, "patches": len(each.labels), "groups": len(set(each.groups))}
        for name, each in sides.items()
    }
    slides = [fields for name, each in sides.items() for fields in _slides(name, each, positive)]
    print_scores(rows, HEADINGS, console)
    write_scores(out / "transfer.csv", rows)
    write_record(out / "transfer.json", rows, facts, slides)
    intervals = {name: (fields.auc, fields.low, fields.high) for name, fields in results.items()}
    write_intervals(out / "transfer.png", "AUC on the other laboratory, 95 % by slide", intervals)
    print_files(out, console)


def _slides(side: str, labelled: Labelled, positive: str) -> Iterator[dict[str, Any]]:
    """Count the patches of each slide."""
    for slide in dict.fromkeys(labelled.slides.tolist()):
        own = labelled.slides == slide
        yield {
            "slide": slide,
            "side": side,
            "group": str(labelled.groups[own][0]),
            "patches": int(own.sum()),
            "positive": int((labelled.labels[own] == positive).sum()),
        }
