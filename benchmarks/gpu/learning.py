"""The part that trains: steps alone, data alone, both; then the curve of `wsi` for the time that is left."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress

import torch
from results import Results
from speed import time_call
from subjects import Setup
from torch import Tensor

from pipelines.shared.config import load_config
from tests.support.made_store import paint_tissue, store_slide
from wsi_stain.core.errors import InterruptedTrainingError
from wsi_stain.core.geometry import Size
from wsi_stain.pix2pix.step import PendingLosses, Pix2Pix
from wsi_stain.stain.template import Template
from wsi_stain.store import StoredSlide
from wsi_stain.training.config import TrainingConfig
from wsi_stain.training.data import TrainingData, stain_of
from wsi_stain.training.loop import TrainingProgress, recipe, train

_CURVE_S = 20.0

Pair = tuple[Tensor, Tensor]


def training(setup: Setup, results: Results) -> None:
    """Images a second, three ways, then losses."""
    config = training_config(setup)
    side = 1100 if setup.is_dry else 2048
    for left_by_an_earlier_try in ("training.zarr", "training"):
        shutil.rmtree(setup.work / left_by_an_earlier_try, ignore_errors=True)
    slide = store_slide(setup.work / "training.zarr", "reference", paint_tissue(Size(side, side), seed=2))
    device = torch.device(setup.device)
    template = Template(kind=config.template, reference=stain_of(slide))
    data = TrainingData(config, [slide], device, template, config.shrink_at(slide.mpp.mean))
    pix2pix = Pix2Pix(config.generator, recipe(config, device))
    steps = 2 if setup.is_dry else 60
    (ready,) = pairs(data, 1)

    def step_through(source: Iterator[Pair]) -> None:
        losses: PendingLosses | None = None
        for x_BCHW, y_BCHW in source:
            before, losses = losses, pix2pix.step(x_BCHW, y_BCHW)
            if before:
                before.read()

    ways = {
        "tensors at hand": lambda count: step_through(itertools.repeat(ready, count)),
        "data alone": lambda count: list(map(len, pairs(data, count))),
        "from the store": lambda count: step_through(pairs(data, count)),
    }
    for name, run in ways.items():
        run(2)
        seconds = time_call(lambda run=run: run(steps), setup.device)
        results.add(f"`wsi`, {name}", f"{steps * config.batch / seconds:.0f} images/s")
    train_for_a_while(setup, config, slide, results)


def training_config(setup: Setup) -> TrainingConfig:
    """`wsi`, or something tiny."""
    config = load_config("wsi").training
    if not setup.is_dry:
        return config
    generator = config.generator.model_copy(update={"ngf": setup.ngf, "downs": 3})
    sizes = {"ndf": 4, "images": 8, "epochs": 1, "batch": 4, "crop": 64, "laboratories": 4, "calibration_images": 8}
    return config.model_copy(update={"generator": generator, "validation_tiles": 2, "panels": 1, **sizes})


def pairs(data: TrainingData, steps: int) -> Iterator[Pair]:
    """So many pairs as training has them."""
    batches = itertools.chain.from_iterable(data.batches(epoch) for epoch in itertools.count(1))
    for batch in itertools.islice(batches, steps):
        yield data.pair(batch)


def train_for_a_while(setup: Setup, config: TrainingConfig, slide: StoredSlide, results: Results) -> None:
    """Train until the time is up, and keep the losses of every tenth step."""
    curve: list[tuple[int, float]] = []
    deadline = time.monotonic() + _CURVE_S

    def keep(progress: TrainingProgress) -> None:
        if progress.step % 10 == 0 or setup.is_dry:
            curve.append((progress.step, progress.losses["l1"]))

    with suppress(InterruptedTrainingError):
        train(config, [slide], setup.work / "training", keep, setup.device, lambda: time.monotonic() > deadline)
    results.details["l1"] = curve
    (first, at_first), (last, at_last) = curve[0], curve[-1]
    results.add(f"`wsi`, L1 from step {first} to {last}", f"{at_first:.3f} to {at_last:.3f}")
