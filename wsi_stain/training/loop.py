"""Training: Pix2Pix on tiles of the store, from template to the slide's own colours; the result is a checkpoint.

The same seed, settings, slides and number of threads give the same checkpoint on a CPU, whether the training ran
through or was interrupted and taken up again. Under torchrun several processes train one generator together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wsi_stain import __version__
from wsi_stain.core.errors import InterruptedTrainingError, TrainingError
from wsi_stain.core.journal import fingerprint
from wsi_stain.pix2pix import checkpoint, distributed
from wsi_stain.pix2pix.checkpoint import CHECKPOINT_NAME, Checkpoint
from wsi_stain.pix2pix.contract import Contract, HeldOutScores
from wsi_stain.pix2pix.generator import Generator
from wsi_stain.pix2pix.inference_generator import recalibrate_batchnorm
from wsi_stain.pix2pix.precision import compute_dtype
from wsi_stain.pix2pix.step import NotFiniteError, PendingLosses, Pix2Pix, Recipe
from wsi_stain.store import StoredSlide
from wsi_stain.training.colour_correction import fit_correction
from wsi_stain.training.config import TrainingConfig
from wsi_stain.training.contract import make_contract
from wsi_stain.training.data import TrainingBatch, TrainingData
from wsi_stain.training.log import (
    TensorBoardLog,
    draw_panel,
    score_generator,
    write_epochs_gif,
    write_metrics,
    write_panel,
)
from wsi_stain.training.state import TrainingState, load_state, save_state
from wsi_stain.training.threads import choose_threads, computing_threads
from wsi_stain.training.validation_baselines import score_baselines

LAST_NAME = "last.safetensors"
STATE_NAME = "state.safetensors"

_LOG_EVERY = 10
_BEST_BY = "perturbed_ciede2000"


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training is: on a GPU one step behind, since what it computes is read while it computes on.

    Attributes:
        step: Steps done.
        steps: Steps in all.
        epoch: The epoch at work, from 1.
        losses: This step's: discriminator, gan, l1.
        threads: Threads that compute it; None on a GPU.
    """

    step: int
    steps: int
    epoch: int
    losses: dict[str, float]
    threads: int | None = None


def train(
    config: TrainingConfig,
    slides: Sequence[StoredSlide],
    out: Path,
    on_progress: Callable[[TrainingProgress], None] | None = None,
    device: str = "cpu",
    should_stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Train a generator to normalize any slide to these; where it was interrupted, it goes on.

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
        contract = make_contract(config, slides)
        state, tensors = load_state(out / STATE_NAME, _key(contract)) or (TrainingState(), None)
        if chosen.type == "cpu":
            state = state.model_copy(update={"threads": state.threads or config.threads or choose_threads()})
        with computing_threads(state.threads or torch.get_num_threads()):
            training = _Training(config, slides, chosen, contract, out, state, tensors)
            try:
                return training.run(on_progress, should_stop)
            finally:
                training.tensorboard.close()


def _key(contract: Contract) -> str:
    """Return the fingerprint of a training, whose state no other may take up."""
    return fingerprint([contract.training_fingerprint, __version__, distributed.world_size()])


class _Training:
    """The state of one training: data, networks, course."""

    def __init__(
        self,
        config: TrainingConfig,
        slides: Sequence[StoredSlide],
        device: torch.device,
        contract: Contract,
        out: Path,
        state: TrainingState,
        tensors: dict[str, Tensor] | None,
    ) -> None:
        self.config, self.contract, self.out = config, contract, out
        self.key, self.state = _key(contract), state
        self.data = TrainingData(config, slides, device, contract.template, contract.shrink)
        self.pix2pix = Pix2Pix(config.generator, recipe(config, device))
        self._begun: deque[tuple[int, TrainingBatch, PendingLosses]] = deque()
        self._most_begun = 1 if device.type == "cuda" else 0
        if tensors is not None:
            self.pix2pix.restore(tensors)
        is_main = distributed.is_main()
        self.baselines = score_baselines(self.data.held_out, contract.template.reference) if is_main else {}
        self.tensorboard = TensorBoardLog(
            out / "tensorboard" if config.tensorboard and is_main else None, self.pix2pix.steps_done
        )

    def run(self, on_progress: Callable[[TrainingProgress], None] | None, should_stop: Callable[[], bool]) -> Path:
        while self.state.epoch <= self.config.epochs and not self._out_of_patience():
            for batch in self.data.batches(self.state.epoch, self.state.step):
                self._begin_step(batch)
                self._end_steps(self._most_begun, on_progress)
                if distributed.any_rank(should_stop()):
                    self._end_steps(0, on_progress)
                    self._stop()
            self._end_steps(0, on_progress)
            self._check_weights()
            if distributed.is_main():
                self._end_epoch()
            self._next_epoch()
        if distributed.is_main():
            self._add_correction()
            write_epochs_gif(self.out / "panels")
            (self.out / STATE_NAME).unlink(missing_ok=True)
        return self.out / CHECKPOINT_NAME

    @property
    def _steps(self) -> int:
        return self.config.epochs * self.config.steps_per_epoch

    def _out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.state.stale

    def _begin_step(self, batch: TrainingBatch) -> None:
        torch.manual_seed(self._step_seed())
        losses = self.pix2pix.step(*self.data.pair(batch))
        self._begun.append((self.pix2pix.steps_done, batch, losses))

    def _end_steps(self, most: int, on_progress: Callable[[TrainingProgress], None] | None) -> None:
        """Read the losses of steps that were begun, in their order, until at most so many are left."""
        while len(self._begun) > most:
            step, batch, pending = self._begun.popleft()
            try:
                losses = pending.read()
            except NotFiniteError as error:
                raise self._divergence(f"{error}, on tiles {self.data.tile_names(batch)}") from error
            sums = {name: self.state.sums.get(name, 0.0) + value for name, value in losses.items()}
            self.state = self.state.model_copy(update={"step": self.state.step + 1, "sums": sums})
            if step % _LOG_EVERY == 0:
                self.tensorboard.scalars(step, losses)
            if on_progress:
                on_progress(TrainingProgress(step, self._steps, self.state.epoch, losses, self.state.threads))

    def _check_weights(self) -> None:
        """Refuse to keep weights that the last update spoilt: no loss has seen them. The same on all replicas."""
        if not self.pix2pix.is_finite:
            raise self._divergence(f"after step {self.pix2pix.steps_done} weights are NaN or infinite")

    def _divergence(self, what: str) -> TrainingError:
        kept = "" if self.state.epoch == 1 else f"; {self.out / LAST_NAME} has the epoch before"
        remedy = "Lower training.lr, or set training.precision to float32"
        return TrainingError(f"Training cannot go on: {what}{kept}", remedy)

    def _step_seed(self) -> int:
        """Return the seed of what a step draws: dropout."""
        source = np.random.SeedSequence([self.config.seed, self.pix2pix.steps_done, distributed.rank()])
        return int(source.generate_state(1, np.uint64)[0])

    def _stop(self) -> None:
        self._check_weights()
        if distributed.is_main():
            save_state(self.out / STATE_NAME, self.key, self.state, self.pix2pix.state())
            checkpoint.save(self.out / LAST_NAME, self._calibrated_generator(), self.contract)
            write_epochs_gif(self.out / "panels")
        distributed.barrier()
        raise InterruptedTrainingError(
            f"Training was stopped after {self.pix2pix.steps_done} of {self._steps} steps",
            "Run the same command again to go on from there",
        )

    def _end_epoch(self) -> None:
        """Score the epoch, show it, keep its generator."""
        state, step, autocast = self.state, self.pix2pix.steps_done, self.pix2pix.autocast()
        losses = {name: total / state.step for name, total in state.sums.items()}
        generator = self._calibrated_generator()
        scores = score_generator(generator, self.data.held_out, self.contract.template, autocast)
        values = {"lr": self.pix2pix.lr, **losses, **scores, **self.baselines}
        shown = {name: f"{value:.6g}" for name, value in values.items()}
        rows = [*state.rows, {"epoch": str(state.epoch), "step": str(step), **shown}]
        write_metrics(self.out / "metrics.csv", rows)
        self.tensorboard.scalars(step, values)
        if self.data.shown:
            picture = draw_panel(generator, self.data.shown, self.contract.template, autocast)
            write_panel(self.out / "panels" / f"epoch_{state.epoch:03d}.png", picture)
            self.tensorboard.picture(step, picture)
        contract = self.contract.model_copy(update={"scores": _held_out_scores(values)})
        checkpoint.save(self.out / LAST_NAME, generator, contract)
        found = scores.get(_BEST_BY)
        better = found is None or state.best is None or found < state.best
        if better:
            checkpoint.save(self.out / CHECKPOINT_NAME, generator, contract)
        best, stale = (found, 0) if better else (state.best, state.stale + 1)
        self.state = state.model_copy(update={"rows": rows, "best": best, "stale": stale})

    def _next_epoch(self) -> None:
        self.state = self.state.model_copy(update={"epoch": self.state.epoch + 1, "step": 0, "sums": {}})
        if distributed.is_main():
            save_state(self.out / STATE_NAME, self.key, self.state, self.pix2pix.state())
        distributed.barrier()

    def _add_correction(self) -> None:
        """Fit the colour correction of slides' tables to the checkpoint, where there are simulated laboratories."""
        path = self.out / CHECKPOINT_NAME
        if self.config.augment and self.config.correction_labs:
            best = Checkpoint.load(path, str(self.data.device))
            correction = fit_correction(best, self.data.draw_correction_set(), self.pix2pix.autocast())
            checkpoint.save(path, best.generator, best.contract, correction)

    def _calibrated_generator(self) -> Generator:
        inputs = self.data.calibration_inputs(self.state.epoch)
        return recalibrate_batchnorm(self.pix2pix.result, inputs, self.pix2pix.autocast())


def _held_out_scores(values: Mapping[str, float]) -> HeldOutScores | None:
    """Pick an epoch's scores for the contract, by the names of `metrics.csv`; None where no tile was held out."""
    if _BEST_BY not in values:
        return None
    generator, untouched, reinhard = (values[name] for name in (_BEST_BY, "untouched_ciede2000", "reinhard_ciede2000"))
    return HeldOutScores(generator=generator, untouched=untouched, reinhard=reinhard)


def recipe(config: TrainingConfig, device: torch.device) -> Recipe:
    """Return the settings of the steps that the networks of a training take."""
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
