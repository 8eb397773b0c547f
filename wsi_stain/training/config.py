"""Settings of a training: section `training` of a configuration. Knows no slides."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from wsi_stain.core.geometry import TILE, ceil_div
from wsi_stain.core.records import StrictRecord
from wsi_stain.pix2pix.config import SHRINKS, GeneratorConfig, Shrink
from wsi_stain.pix2pix.precision import Precision

_COARSEST_UM = 0.6
"""Resolution that suffices a generator: at 0.5 um/px it was as near to the truth as at 0.25, and nearer where stain
levels were off, for a quarter of the work (docs/quality.md)."""


class TrainingConfig(StrictRecord):
    """Settings of a training.

    Attributes:
        template: The generator's input: `gray` (luminance) or `he` (hematoxylin and eosin).
        generator: The generator's architecture.
        ndf: Channels of the discriminator's first layer; 64 as published.
        images: Images in an epoch; tiles are used again, cropped and turned otherwise, when there are fewer.
        epochs: Epochs.
        batch: Images in a batch.
        shrink: How many pixels of the slide, along each axis, are averaged to one of the generator's; `auto` takes as
            many as leave it 0.6 um/px or finer.
        crop: Side of the training images, in the generator's px; a multiple of 2**downs, at most 256.
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
        statistics_jitter: How far off stain statistics are in training; 1 is about as far as those of real scanners,
            0 takes them as exact.
        stain_passes: How many times a slide's stain statistics are refined by what the generator makes of its tissue,
            see `stain.refinement`; it has to doubt them for that: `statistics_jitter`. 0 takes them as measured.
        correction_labs: Simulated laboratories that the colour correction of slides' tables is fitted to (see
            `training.colour_correction`); with 0, or without `augment`, there is none.
        clip: Largest norm of a network's gradient; 0 sets no limit.
        precision: `auto` takes bfloat16 where the device computes in it natively; float16 scales its losses.
        threads: Threads to compute with on a CPU; None takes as many as are worth it beside what else runs when the
            training begins, at most one a core.
        compile: Let torch.compile make the networks faster; the first steps take minutes.
        seed: Seed of everything drawn.
        min_tissue: Least share of tissue in a training tile, 0 to 1.
        max_pen: Largest share of ink in a training tile, 0 to 1.
        min_blur: Least variance of the Laplacian of a training tile, squared grey levels; 0 takes blurred ones too.
        max_tiles: Most tiles to train on; more are thinned out evenly.
        cache_tiles: Most tiles to hold in memory, 192 KiB each; with more, tiles are read when needed.
        validation_share: Share of the slides (or, with fewer than three, of their area) that is held out.
        validation_tiles: Most held-out tiles to score.
        calibration_images: Images on which BatchNorm statistics are estimated for inference.
        panels: Held-out tiles shown in each epoch's panel; 0 draws none.
        patience: Epochs without a better score after which training ends early; 0 trains them all.
        tensorboard: Write scalars and panels for TensorBoard as well; needs the extra `tensorboard`.
    """

    template: Literal["gray", "he"] = "gray"
    generator: GeneratorConfig = GeneratorConfig()
    ndf: int = Field(default=64, ge=1, le=1024)
    images: int = Field(default=20_000, ge=1)
    epochs: int = Field(default=6, ge=1)
    batch: int = Field(default=16, ge=1)
    shrink: Literal["auto"] | Shrink = 1
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
    statistics_jitter: float = Field(default=0.0, ge=0, le=4)
    stain_passes: int = Field(default=0, ge=0, le=10)
    correction_labs: int = Field(default=32, ge=0, le=1000)
    clip: float = Field(default=0.0, ge=0)
    precision: Precision = "auto"
    threads: int | None = Field(default=None, ge=1)
    compile: bool = False
    seed: int = Field(default=0, ge=0)
    min_tissue: float = Field(default=0.5, ge=0, le=1)
    max_pen: float = Field(default=0.1, ge=0, le=1)
    min_blur: float = Field(default=0.0, ge=0)
    max_tiles: int = Field(default=20_000, ge=1)
    cache_tiles: int = Field(default=4000, ge=0)
    validation_share: float = Field(default=0.1, ge=0, lt=1)
    validation_tiles: int = Field(default=24, ge=1)
    calibration_images: int = Field(default=256, ge=1)
    panels: int = Field(default=4, ge=0)
    patience: int = Field(default=0, ge=0)
    tensorboard: bool = False

    @model_validator(mode="after")
    def _shapes_agree(self) -> TrainingConfig:
        channels = 1 if self.template == "gray" else 2
        if self.generator.in_channels != channels:
            raise ValueError(f"generator.in_channels must be {channels} for template {self.template}")
        if self.crop % 2**self.generator.downs:
            raise ValueError(
                f"crop is {self.crop}, expected a multiple of 2**generator.downs, {2**self.generator.downs}"
            )
        return self

    def shrink_at(self, mpp: float) -> Shrink:
        """Return how many pixels of a slide, along each axis, are averaged to one of the generator's.

        Args:
            mpp: Resolution of the slide, um per px.
        """
        if self.shrink != "auto":
            return self.shrink
        return max((factor for factor in SHRINKS if factor * mpp <= _COARSEST_UM), default=1)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return ceil_div(self.images, self.batch)
