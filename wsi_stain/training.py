"""Training: Pix2Pix on tiles of the store, from template to the slide's own colours; the result is a checkpoint.

    tiles -> crops, turned -> look of a random laboratory -> template with that look's statistics -> x
                           -> as they are --------------------------------------------------------> y

The same seed, settings, slides and number of threads give the same checkpoint on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from wsi_stain import __version__, checkpoint
from wsi_stain.checkpoint import Contract
from wsi_stain.dataset import (
    Batch,
    Sample,
    TilePixels,
    TileRef,
    check_resolution,
    draw_samples,
    load_batches,
    split_tiles,
    thinned,
    tissue_tiles,
)
from wsi_stain.errors import TrainingError
from wsi_stain.geometry import TILE, ceil_div
from wsi_stain.journal import fingerprint
from wsi_stain.looks import Look, draw_looks, own_look, pixel_pool
from wsi_stain.pix2pix.batchnorm import settle
from wsi_stain.pix2pix.generator import Generator, GeneratorConfig
from wsi_stain.pix2pix.optimization import NotFiniteError, Pix2Pix, Recipe
from wsi_stain.precision import Precision, compute_dtype
from wsi_stain.settings import Settings
from wsi_stain.stain import StainStatistics, Template
from wsi_stain.store import StoredSlide
from wsi_stain.training_log import HeldOut, MetricsFile, score, write_panel

CHECKPOINT_NAME = "checkpoint.safetensors"

_SETTLING_BATCH = 32
_SCORED_LOOKS = 8
_POOL_TILES = 64
_SQUARE = 1.15


class TrainingConfig(Settings):
    """How a generator is trained.

    Attributes:
        template: The generator's input: `gray` (luminance) or `he` (hematoxylin and eosin).
        generator: The generator's architecture.
        ndf: Channels of the discriminator's first layer; 64 as published.
        images: Images in an epoch; tiles are used again, cropped and turned otherwise, when there are fewer.
        epochs: Epochs.
        batch: Images in a batch.
        crop: Side of the training images, px; a multiple of 2**downs, at most 256.
        lr: Adam's learning rate.
        betas: Adam's betas.
        constant_share: Share of the steps at the full learning rate; from there it falls linearly to 0.
        lambda_l1: Weight of the L1 term beside the adversarial one.
        gan: The adversarial loss: `bce` as published, or `lsgan`.
        ema: Decay of the moving average of the generator's weights, for each step; 0 keeps the weights as they are.
        augment: Whether tiles are shown as other laboratories would; `false` is the published recipe.
        laboratories: Laboratories to draw, over all slides; each is measured once, as a foreign slide is.
        strength: How far they lie from the reference; 1 is about as far as real ones do.
        clean_share: Share of the images that stay as the slide has them.
        precision: `auto` takes bfloat16 where the device computes in it natively.
        seed: Seed of everything drawn.
        min_tissue: Least share of tissue in a training tile, 0 to 1.
        max_tiles: Most tiles to train on; more are thinned out evenly.
        cache_tiles: Most tiles to hold in memory, 192 KiB each; with more, tiles are read when needed.
        validation_share: Share of the slides (or, with fewer than three, of their area) that is held out.
        validation_tiles: Most held-out tiles to score.
        settling_images: Images on which BatchNorm statistics are estimated for inference.
        panels: Held-out tiles shown in each epoch's panel; 0 draws none.
    """

    template: Literal["gray", "he"] = "gray"
    generator: GeneratorConfig = GeneratorConfig()
    ndf: int = Field(default=64, ge=1, le=1024)
    images: int = Field(default=20_000, ge=1)
    epochs: int = Field(default=6, ge=1)
    batch: int = Field(default=16, ge=1)
    crop: int = Field(default=TILE, ge=32, le=TILE)
    lr: float = Field(default=2e-4, gt=0)
    betas: tuple[float, float] = (0.5, 0.999)
    constant_share: float = Field(default=0.5, ge=0, le=1)
    lambda_l1: float = Field(default=100.0, ge=0)
    gan: Literal["bce", "lsgan"] = "bce"
    ema: float = Field(default=0.0, ge=0, lt=1)
    augment: bool = True
    laboratories: int = Field(default=32, ge=1)
    strength: float = Field(default=1.0, ge=0)
    clean_share: float = Field(default=0.1, ge=0, le=1)
    precision: Precision = "auto"
    seed: int = Field(default=0, ge=0)
    min_tissue: float = Field(default=0.5, ge=0, le=1)
    max_tiles: int = Field(default=20_000, ge=1)
    cache_tiles: int = Field(default=4000, ge=0)
    validation_share: float = Field(default=0.1, ge=0, lt=1)
    validation_tiles: int = Field(default=24, ge=1)
    settling_images: int = Field(default=256, ge=1)
    panels: int = Field(default=4, ge=0)

    @model_validator(mode="after")
    def _shapes_agree(self) -> TrainingConfig:
        channels = 1 if self.template == "gray" else 2
        if self.generator.in_channels != channels:
            raise ValueError(f"generator.in_channels must be {channels} for template {self.template}")
        if self.crop % 2**self.generator.downs:
            raise ValueError(f"crop must be a multiple of 2**generator.downs, {2**self.generator.downs}")
        return self

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return ceil_div(self.images, self.batch)


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
) -> Path:
    """Train a generator to bring any slide to the look of these.

    Args:
        config: How.
        slides: The reference's slides; the first one's stain is what templates are brought to.
        out: Directory that gets checkpoint.safetensors, metrics.csv and panels/epoch_*.png.
        on_progress: Called after each step.
        device: Where to compute, as torch names it.

    Returns:
        The checkpoint's path.

    Raises:
        TrainingError: The slides do not fit together or have too little tissue, or a loss is no longer finite.
    """
    chosen = torch.device(device)
    with torch.random.fork_rng([chosen] if chosen.type == "cuda" else []):
        torch.manual_seed(config.seed)
        contract = _contract(config, slides)
        return _Training(config, slides, chosen, contract).run(out, on_progress)


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
        template=Template(kind=config.template, reference=_stain(first)),
        mpp=first.mpp.mean,
        icc_profile=first.record.icc_profile,
        icc_policy=first.record.icc_policy,
        training_fingerprint=training_fingerprint(config, slides),
        version=__version__,
    )


def _stain(slide: StoredSlide) -> StainStatistics:
    if slide.record.stain is None:
        raise TrainingError(
            f"The stain of {slide.record.slide_id} was not measured, so no template can be made",
            "Tile the slide again, or leave it out",
        )
    return slide.record.stain


class _Training:
    """The state of one training: tiles, looks, networks."""

    def __init__(
        self, config: TrainingConfig, slides: Sequence[StoredSlide], device: torch.device, contract: Contract
    ) -> None:
        self.config, self.slides, self.device, self.contract = config, slides, device, contract
        self.rng = np.random.default_rng(config.seed)
        tiles = tissue_tiles(slides, config.min_tissue)
        split = split_tiles(tiles, slides, config.validation_share)
        self.source = TilePixels(slides, thinned(split.training, slides, config.max_tiles), config.cache_tiles)
        self.looks, scored = self._draw_looks(tiles)
        self.held_out = self._hold_out(split.held_out, scored)
        self.shown = (self.held_out or self._hold_out(self.source.tiles, scored))[: config.panels]
        self.pix2pix = Pix2Pix(config.generator, self._recipe())

    def run(self, out: Path, on_progress: Callable[[TrainingProgress], None] | None) -> Path:
        metrics, per_epoch = MetricsFile(out / "metrics.csv"), self.config.steps_per_epoch
        for epoch in range(1, self.config.epochs + 1):
            lr, losses = self.pix2pix.lr, []
            for number, batch in enumerate(self._batches(self.config.images, self.config.batch), 1):
                losses.append(self._step(batch))
                if on_progress:
                    done = (epoch - 1) * per_epoch + number
                    on_progress(TrainingProgress(done, self.config.epochs * per_epoch, epoch, losses[-1]))
            means = {name: float(np.mean([each[name] for each in losses])) for name in losses[0]}
            generator = self._settled(self.config.settling_images)
            scores = score(generator, self.held_out, self.contract.template, self.pix2pix.autocast())
            metrics.add(epoch, epoch * per_epoch, {"lr": lr, **means, **scores})
            if self.shown:
                panel = out / "panels" / f"epoch_{epoch:03d}.png"
                write_panel(panel, generator, self.shown, self.contract.template, self.pix2pix.autocast())
        checkpoint.save(out / CHECKPOINT_NAME, generator, self.contract)
        return out / CHECKPOINT_NAME

    def _recipe(self) -> Recipe:
        config = self.config
        return Recipe(
            steps=config.epochs * config.steps_per_epoch,
            lr=config.lr,
            betas=config.betas,
            constant_share=config.constant_share,
            lambda_l1=config.lambda_l1,
            gan=config.gan,
            ndf=config.ndf,
            ema=config.ema,
            device=self.device,
            dtype=compute_dtype(config.precision, self.device),
        )

    def _draw_looks(self, tiles: Sequence[TileRef]) -> tuple[list[list[Look]], list[list[Look]]]:
        """Looks of each slide: to train with (none when not augmenting), and others to score with."""
        count = max(4, ceil_div(self.config.laboratories, len(self.slides))) if self.config.augment else 0
        training: list[list[Look]] = []
        scored: list[list[Look]] = []
        for index, slide in enumerate(self.slides):
            own = _stain(slide)
            some = thinned([ref for ref in tiles if ref.slide == index], self.slides, _POOL_TILES)
            pool = pixel_pool([slide.read_tile(ref.tile) for ref in some], self.rng) if some else None
            for looks, wanted in ((training, count), (scored, _SCORED_LOOKS)):
                drawn: list[Look] = []
                if pool is not None and wanted:
                    measured = slide.record.stain_config
                    drawn = draw_looks(pool, own, wanted, self.config.strength, self.rng, measured)
                    if not drawn:
                        raise TrainingError(
                            f"No simulated laboratory leaves {slide.record.slide_id} a stain that can be measured",
                            "Lower training.strength, or set training.augment to false",
                        )
                looks.append(drawn or [own_look(own)])
        return training, scored

    def _hold_out(self, tiles: Sequence[TileRef], scored: Sequence[Sequence[Look]]) -> list[HeldOut]:
        some = thinned(tiles, self.slides, self.config.validation_tiles)
        return [
            HeldOut(
                torch.from_numpy(self.slides[ref.slide].read_tile(ref.tile)).to(self.device),
                own_look(_stain(self.slides[ref.slide])),
                scored[ref.slide][number % len(scored[ref.slide])],
            )
            for number, ref in enumerate(some)
        ]

    def _batches(self, images: int, size: int) -> Iterator[Batch]:
        samples = draw_samples(self.rng, len(self.source), images, self.config.crop)
        return load_batches(self.source, samples, size, self.config.crop)

    def _pair(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Templates and targets, (B, C, H, W), in [-1, 1]."""
        pixels = batch.pixels.to(self.device, non_blocking=True)
        looks = (self._look(sample) for sample in batch.samples)
        x_BCHW = torch.stack(
            [look.template(rgb, self.contract.template) for look, rgb in zip(looks, pixels, strict=True)]
        )
        y_BCHW = pixels.movedim(-1, 1).float() / 127.5 - 1
        return x_BCHW.contiguous(memory_format=torch.channels_last), y_BCHW

    def _look(self, sample: Sample) -> Look:
        slide = self.source.tiles[sample.tile].slide
        looks, clean = self.looks[slide], self.config.clean_share
        if sample.look < clean:
            return own_look(_stain(self.slides[slide]))
        return looks[min(int((sample.look - clean) / (1 - clean) * len(looks)), len(looks) - 1)]

    def _step(self, batch: Batch) -> dict[str, float]:
        x_BCHW, y_BCHW = self._pair(batch)
        try:
            return self.pix2pix.step(x_BCHW, y_BCHW)
        except NotFiniteError as error:
            raise TrainingError(
                f"Training cannot go on: {error}, on tiles {self._named(batch)}",
                "Lower training.lr, or set training.precision to float32",
            ) from error

    def _named(self, batch: Batch) -> str:
        refs = [self.source.tiles[sample.tile] for sample in batch.samples]
        return ", ".join(f"{self.slides[ref.slide].record.slide_id} ({ref.tile.row}, {ref.tile.col})" for ref in refs)

    def _settled(self, images: int) -> Generator:
        batches = self._batches(images, max(self.config.batch, _SETTLING_BATCH))
        inputs = (self._pair(batch)[0] for batch in batches)
        return settle(self.pix2pix.result, inputs, self.pix2pix.autocast())
