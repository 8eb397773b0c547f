"""Training: Pix2Pix on tiles of the store, from template to the slide's own colours; the result is a checkpoint.

The same seed, settings, slides and number of threads give the same checkpoint on a CPU, whether the training ran
through or was interrupted and taken up again. Under torchrun several processes train one generator together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wsi_stain import __version__
from wsi_stain.core.errors import InterruptedTrainingError, TrainingError
from wsi_stain.core.journal import fingerprint
from wsi_stain.pix2pix import checkpoint, distributed
from wsi_stain.pix2pix.batchnorm import settle
from wsi_stain.pix2pix.checkpoint import Contract
from wsi_stain.pix2pix.generator import Generator
from wsi_stain.pix2pix.precision import compute_dtype
from wsi_stain.pix2pix.step import NotFiniteError, Pix2Pix, Recipe
from wsi_stain.stain.statistics import Template
from wsi_stain.store import StoredSlide
from wsi_stain.training.config import TrainingConfig
from wsi_stain.training.data import TrainingData, stain_of
from wsi_stain.training.log import Board, panel, score, write_film, write_metrics, write_panel
from wsi_stain.training.samples import Batch, check_resolution
from wsi_stain.training.state import Course, load_state, save_state
from wsi_stain.training.validation_baselines import yardsticks

CHECKPOINT_NAME = "checkpoint.safetensors"
LAST_NAME = "last.safetensors"
STATE_NAME = "state.safetensors"

_SQUARE = 1.15
_BOARD_EVERY = 10
_JUDGED_BY = "perturbed_ciede2000"


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training is.

    Attributes:
        step: Steps done.
        steps: Steps in all.
        epoch: The epoch at work, from 1.
        losses: This step's: discriminator, gan, l1.
    """

    step: int
    steps: int
    epoch: int
    losses: dict[str, float]


def training_fingerprint(config: TrainingConfig, slides: Sequence[StoredSlide]) -> str:
    """Fingerprint of everything a checkpoint depends on but the software and the machine."""
    return fingerprint([config.model_dump(mode="json"), [slide.record.key for slide in slides]])


def train(
    config: TrainingConfig,
    slides: Sequence[StoredSlide],
    out: Path,
    on_progress: Callable[[TrainingProgress], None] | None = None,
    device: str = "cpu",
    should_stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Train a generator to bring any slide to the look of these; where it was interrupted, it goes on.

    Args:
        config: How.
        slides: The reference's slides; the first one's stain is what templates are brought to.
        out: Directory that gets checkpoint.safetensors (the epoch with the best score on perturbed held-out tiles),
            last.safetensors (the last epoch), metrics.csv, panels/epoch_*.png, panels/epochs.gif, and while the
            training goes on state.safetensors.
        on_progress: Called after each step.
        device: Where to compute, as torch names it.
        should_stop: Asked after each step; when true, the state is saved and the training stops.

    Returns:
        The checkpoint's path.

    Raises:
        TrainingError: The slides do not fit together or have too little tissue, or a loss is no longer finite.
        InterruptedTrainingError: `should_stop` said so.
        OutputError: A file cannot be written; the last state that was written stays.
    """
    chosen = torch.device(device)
    with torch.random.fork_rng([chosen] if chosen.type == "cuda" else []):
        torch.manual_seed(config.seed)
        contract = _contract(config, slides)
        training = _Training(config, slides, chosen, contract, out)
        try:
            return training.run(on_progress, should_stop)
        finally:
            training.board.close()


def _contract(config: TrainingConfig, slides: Sequence[StoredSlide]) -> Contract:
    if not slides:
        raise TrainingError("There is no slide to train on", "Tile at least one reference slide")
    check_resolution(slides)
    if len({(slide.record.icc_profile, slide.record.icc_policy) for slide in slides}) > 1:
        raise TrainingError(
            "The reference slides have different ICC profiles, so their colours do not mean the same",
            "Tile them with tiling.slide.icc set to srgb",
        )
    first = slides[0]
    if max(first.mpp) > min(first.mpp) * _SQUARE:
        raise TrainingError(
            f"Pixels of {first.record.slide_id} are not square: {first.mpp.x:.4g} x {first.mpp.y:.4g} um",
            f"Tile it with --mpp {max(first.mpp):.3g}",
        )
    return Contract(
        generator=config.generator,
        template=Template(kind=config.template, reference=stain_of(first)),
        mpp=first.mpp.mean,
        icc_profile=first.record.icc_profile,
        icc_policy=first.record.icc_policy,
        training_fingerprint=training_fingerprint(config, slides),
        version=__version__,
    )


class _Training:
    """The state of one training: data, networks, course."""

    def __init__(
        self,
        config: TrainingConfig,
        slides: Sequence[StoredSlide],
        device: torch.device,
        contract: Contract,
        out: Path,
    ) -> None:
        self.config, self.contract, self.out = config, contract, out
        self.key = fingerprint([contract.training_fingerprint, __version__, distributed.count()])
        self.data = TrainingData(config, slides, device, contract.template)
        self.pix2pix = Pix2Pix(config.generator, recipe(config, device))
        self.course = self._taken_up()
        chief = distributed.rank() == 0
        self.beside = yardsticks(self.data.held_out, contract.template.reference) if chief else {}
        self.board = Board(out / "tensorboard" if config.tensorboard and chief else None, self.pix2pix.steps_done)

    def run(self, on_progress: Callable[[TrainingProgress], None] | None, should_stop: Callable[[], bool]) -> Path:
        while self.course.epoch <= self.config.epochs and not self._exhausted():
            for batch in self.data.batches(self.course.epoch, self.course.step):
                losses = self._step(batch)
                if on_progress:
                    on_progress(TrainingProgress(self.pix2pix.steps_done, self._steps, self.course.epoch, losses))
                if distributed.agreed(should_stop()):
                    self._stop()
            self._check_weights()
            if distributed.rank() == 0:
                self._end_epoch()
            self._next_epoch()
        if distributed.rank() == 0:
            write_film(self.out / "panels")
            (self.out / STATE_NAME).unlink(missing_ok=True)
        return self.out / CHECKPOINT_NAME

    @property
    def _steps(self) -> int:
        return self.config.epochs * self.config.steps_per_epoch

    def _taken_up(self) -> Course:
        found = load_state(self.out / STATE_NAME, self.key)
        if found is None:
            return Course()
        course, tensors = found
        self.pix2pix.restore(tensors)
        return course

    def _exhausted(self) -> bool:
        return 0 < self.config.patience <= self.course.stale

    def _step(self, batch: Batch) -> dict[str, float]:
        torch.manual_seed(self._chance())
        x_BCHW, y_BCHW = self.data.pair(batch)
        try:
            losses = self.pix2pix.step(x_BCHW, y_BCHW)
        except NotFiniteError as error:
            raise self._diverged(f"{error}, on tiles {self.data.named(batch)}") from error
        sums = {name: self.course.sums.get(name, 0.0) + value for name, value in losses.items()}
        self.course = self.course.model_copy(update={"step": self.course.step + 1, "sums": sums})
        if self.pix2pix.steps_done % _BOARD_EVERY == 0:
            self.board.scalars(self.pix2pix.steps_done, losses)
        return losses

    def _check_weights(self) -> None:
        """Refuse to keep weights that the last update spoilt: no loss has seen them. The same on all replicas."""
        if not self.pix2pix.is_finite:
            raise self._diverged(f"after step {self.pix2pix.steps_done} weights are NaN or infinite")

    def _diverged(self, what: str) -> TrainingError:
        kept = "" if self.course.epoch == 1 else f"; {self.out / LAST_NAME} has the epoch before"
        remedy = "Lower training.lr, or set training.precision to float32"
        return TrainingError(f"Training cannot go on: {what}{kept}", remedy)

    def _chance(self) -> int:
        """Seed of what a step draws: dropout."""
        source = np.random.SeedSequence([self.config.seed, self.pix2pix.steps_done, distributed.rank()])
        return int(source.generate_state(1, np.uint64)[0])

    def _stop(self) -> None:
        self._check_weights()
        if distributed.rank() == 0:
            save_state(self.out / STATE_NAME, self.key, self.course, self.pix2pix.state())
            checkpoint.save(self.out / LAST_NAME, self._settled(), self.contract)
            write_film(self.out / "panels")
        distributed.wait_for_all()
        raise InterruptedTrainingError(
            f"Training was stopped after {self.pix2pix.steps_done} of {self._steps} steps",
            "Run the same command again to go on from there",
        )

    def _end_epoch(self) -> None:
        """Score the epoch, show it, keep its generator."""
        course, step, autocast = self.course, self.pix2pix.steps_done, self.pix2pix.autocast()
        losses = {name: total / course.step for name, total in course.sums.items()}
        generator = self._settled()
        scores = score(generator, self.data.held_out, self.contract.template, autocast)
        values = {"lr": self.pix2pix.lr, **losses, **scores, **self.beside}
        shown = {name: f"{value:.6g}" for name, value in values.items()}
        rows = [*course.rows, {"epoch": str(course.epoch), "step": str(step), **shown}]
        write_metrics(self.out / "metrics.csv", rows)
        self.board.scalars(step, values)
        if self.data.shown:
            picture = panel(generator, self.data.shown, self.contract.template, autocast)
            write_panel(self.out / "panels" / f"epoch_{course.epoch:03d}.png", picture)
            self.board.picture(step, picture)
        checkpoint.save(self.out / LAST_NAME, generator, self.contract)
        found = scores.get(_JUDGED_BY)
        better = found is None or course.best is None or found < course.best
        if better:
            checkpoint.save(self.out / CHECKPOINT_NAME, generator, self.contract)
        best, stale = (found, 0) if better else (course.best, course.stale + 1)
        self.course = course.model_copy(update={"rows": rows, "best": best, "stale": stale})

    def _next_epoch(self) -> None:
        self.course = self.course.model_copy(update={"epoch": self.course.epoch + 1, "step": 0, "sums": {}})
        if distributed.rank() == 0:
            save_state(self.out / STATE_NAME, self.key, self.course, self.pix2pix.state())
        distributed.wait_for_all()

    def _settled(self) -> Generator:
        inputs = self.data.settling_inputs(self.course.epoch)
        return settle(self.pix2pix.result, inputs, self.pix2pix.autocast())


def recipe(config: TrainingConfig, device: torch.device) -> Recipe:
    """How the networks of a training take their steps."""
    return Recipe(
        steps=config.epochs * config.steps_per_epoch,
        lr=config.lr,
        betas=config.betas,
        constant_share=config.constant_share,
        lambda_l1=config.lambda_l1,
        gan=config.gan,
        ndf=config.ndf,
        ema=config.ema,
        clip=config.clip,
        compile=config.compile,
        device=device,
        dtype=compute_dtype(config.precision, device),
    )
