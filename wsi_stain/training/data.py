"""Data that one training learns from and is scored on: tiles of the reference as simulated laboratories show them.

    tiles -> crops, turned -> as a random laboratory shows it -> template with its statistics ----> x
                           -> as they are --------------------------------------------------------> y

Chance depends on the seed, the epoch and the purpose alone, so that a training can be taken up in the middle of any
epoch. With several processes each gets its share of every batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_stain.core.arrays import RgbImage
from wsi_stain.core.errors import TrainingError
from wsi_stain.core.geometry import ceil_div
from wsi_stain.pix2pix import distributed
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.stain.template import Template
from wsi_stain.store import StoredSlide
from wsi_stain.training.config import TrainingConfig
from wsi_stain.training.samples import (
    Batch,
    Sample,
    TilePixels,
    TileRef,
    draw_samples,
    load_batches,
    read_around,
    read_shrunk,
    split_tiles,
    thin_out,
    tissue_tiles,
)
from wsi_stain.training.simulated_labs import (
    HeldOut,
    LabBatch,
    SimulatedLab,
    draw_measured,
    draw_simulated_labs,
    own_lab,
    pixel_pool,
)

_LABS, _EPOCH, _CALIBRATION, _CORRECTION = range(4)
"""Purposes of chance."""

_CALIBRATION_BATCH = 32
_SCORING_LABS = 8
_POOL_TILES = 64
_CORRECTION_TILES = 6
"""Tiles that each laboratory of the colour correction shows; half as many of those that are shrunk."""

_CORRECTION_JITTER = 0.6
"""How far off its statistics are, as a share of `statistics_jitter`: most slides' are less far off than the farthest.
With a real scanner's colours, which laboratories were drawn counted for more than this share."""


@dataclass(frozen=True)
class TrainingBatch(Batch):
    """Samples, their pixels, and the laboratories that show them.

    Attributes:
        labs: The laboratories, in order, for some images each: for a GPU for all of them at once. A CPU's cache holds
            one image's values; those of a batch would take twice as long.
    """

    labs: Sequence[LabBatch]


class TrainingData:
    """Tiles, simulated laboratories and batches of one training.

    Args:
        config: How to train.
        slides: The reference's slides.
        device: Where templates are made.
        template: The generator's input.
        shrink: How many pixels of the slides, along each axis, are averaged to one of the generator's.

    Attributes:
        held_out: Tiles that are never trained on, with the laboratories to score them with.
        shown: Tiles for the panels.

    Raises:
        TrainingError: Too little tissue, or a slide's stain cannot be measured in any simulated laboratory.
    """

    def __init__(
        self,
        config: TrainingConfig,
        slides: Sequence[StoredSlide],
        device: torch.device,
        template: Template,
        shrink: int = 1,
    ) -> None:
        self.config, self.slides, self.device, self.template = config, slides, device, template
        self._shrink, self._correction_tiles = shrink, _CORRECTION_TILES if shrink == 1 else _CORRECTION_TILES // 2
        if config.batch % distributed.world_size():
            raise TrainingError(
                f"A batch of {config.batch} images cannot be shared evenly by {distributed.world_size()} processes",
                "Set training.batch to a multiple of their number",
            )
        tiles = tissue_tiles(slides, config.min_tissue, config.max_pen, config.min_blur)
        split = split_tiles(tiles, slides, config.validation_share, shrink)
        self.source = TilePixels(slides, thin_out(split.training, slides, config.max_tiles), config.cache_tiles, shrink)
        rng = self._rng(_LABS, 0)
        self._pools = [self._pool([ref for ref in tiles if ref.slide == index], rng) for index in range(len(slides))]
        each = max(4, ceil_div(config.laboratories, len(slides))) if config.augment else 0
        self._labs, self._scoring_labs = (
            [self._draw_labs(index, count, rng) for index in range(len(slides))] for count in (each, _SCORING_LABS)
        )
        self._scoring_labs = [[self._jitter(lab, seed) for seed, lab in enumerate(labs)] for labs in self._scoring_labs]
        self.held_out = self._hold_out(split.held_out, config.validation_tiles)
        self.shown = self.held_out[: config.panels] or self._hold_out(self.source.tiles, config.panels)

    def batches(self, epoch: int, first: int = 0) -> Iterator[TrainingBatch]:
        """Load this process's shares of an epoch's batches, from the batch with number `first`."""
        config, among = self.config, distributed.world_size()
        samples = draw_samples(self._rng(_EPOCH, epoch), self._by_slide(), config.images, config.crop)
        size = config.batch // among
        own = samples[: len(samples) // among * among][distributed.rank() :: among]
        return load_batches(self.source, own[first * size :], size, config.crop, self._gather_labs)

    def calibration_inputs(self, epoch: int) -> Iterator[Tensor]:
        """Yield templates, (B, C, H, W), to estimate BatchNorm statistics on."""
        config = self.config
        samples = draw_samples(self._rng(_CALIBRATION, epoch), self._by_slide(), config.calibration_images, config.crop)
        size = max(config.batch, _CALIBRATION_BATCH)
        for batch in load_batches(self.source, samples, size, config.crop, self._gather_labs):
            yield self.pair(batch)[0]

    def draw_correction_set(self) -> Iterator[tuple[SimulatedLab, list[RgbImage]]]:
        """Draw what the colour correction is fitted to: laboratories, each with training tiles of its slide as it is.

        Each is off by chance, and every other one as far the other way, so that a few have hardly a bias. Tiles have as
        many pixels as are shrunk to one of a training image: (256 shrink, 256 shrink, 3).
        """
        config, rng, by_slide = self.config, self._rng(_CORRECTION, 0), self._by_slide()
        for number in range(config.correction_labs if config.augment else 0):
            turn, index = divmod(number, len(by_slide))
            labs = self._labs[self.source.tiles[by_slide[index][0]].slide]
            off = (-1) ** turn * _CORRECTION_JITTER * config.statistics_jitter
            lab = labs[turn % len(labs)].with_jitter(off, np.random.default_rng([config.seed, _CORRECTION, turn // 2]))
            tiles = [self.source.tiles[tile] for tile in rng.permutation(by_slide[index])[: self._correction_tiles]]
            yield lab, [read_around(self.slides[ref.slide], ref.tile, self._shrink) for ref in tiles]

    def pair(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """Make templates and targets, (B, C, H, W), in [-1, 1], in memory as (B, H, W, C)."""
        pixels = batch.pixels.to(self.device, non_blocking=True)
        parts = zip(batch.labs, pixels.chunk(len(batch.labs)), strict=True)
        templates = torch.cat([labs.templates(part) for labs, part in parts])
        return templates.movedim(-1, 1), pixels.float().div_(127.5).sub_(1).movedim(-1, 1)

    def tile_names(self, batch: Batch) -> str:
        """Name the tiles of a batch, for messages."""
        refs = [self.source.tiles[sample.tile] for sample in batch.samples]
        return ", ".join(f"{self.slides[ref.slide].record.slide_id} ({ref.tile.row}, {ref.tile.col})" for ref in refs)

    def _rng(self, purpose: int, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, purpose, epoch])

    def _by_slide(self) -> list[list[int]]:
        """List indices of the training tiles, slide by slide."""
        places: dict[int, list[int]] = {}
        for index, ref in enumerate(self.source.tiles):
            places.setdefault(ref.slide, []).append(index)
        return list(places.values())

    def _pool(self, tiles: Sequence[TileRef], rng: np.random.Generator) -> NDArray[np.uint8] | None:
        some = thin_out(tiles, self.slides, _POOL_TILES)
        return pixel_pool([self.slides[ref.slide].read_tile(ref.tile) for ref in some], rng) if some else None

    def _draw_labs(self, index: int, count: int, rng: np.random.Generator) -> list[SimulatedLab]:
        """Draw laboratories for a slide; its own alone where none are wanted or it has no tissue."""
        slide, pool = self.slides[index], self._pools[index]
        own = stain_of(slide)
        if pool is None or not count:
            return [own_lab(own)]
        config = self.config
        labs = draw_simulated_labs(
            pool, own, count, config.strength, rng, slide.record.stain_config, config.statistics_jitter
        )
        if not labs:
            raise TrainingError(
                f"No simulated laboratory leaves {slide.record.slide_id} a stain that can be measured",
                "Lower training.strength, or set training.augment to false",
            )
        return labs

    def _hold_out(self, tiles: Sequence[TileRef], count: int) -> list[HeldOut]:
        held = []
        for number, ref in enumerate(thin_out(tiles, self.slides, count)):
            slide, labs = self.slides[ref.slide], self._scoring_labs[ref.slide]
            pixels = torch.from_numpy(read_shrunk(slide, ref.tile, self._shrink)).to(self.device)
            pool = self._pools[ref.slide]
            assert pool is not None
            seed = number % len(labs)
            measured = draw_measured(pool, self.config.statistics_jitter, np.random.default_rng(seed))
            held.append(HeldOut(pixels, pool, measured, own_lab(stain_of(slide)), labs[seed]))
        return held

    def _gather_labs(self, batch: Batch) -> TrainingBatch:
        """Do on a loader's thread what a batch needs of the host; for a GPU its pixels go into page-locked memory."""
        labs, on_gpu = [self._lab_of(sample) for sample in batch.samples], self.device.type == "cuda"
        size = len(labs) if on_gpu else 1
        gathered = [LabBatch.of(labs[first : first + size], self.template) for first in range(0, len(labs), size)]
        if on_gpu:
            return TrainingBatch(batch.samples, batch.pixels.pin_memory(), [each.pin() for each in gathered])
        return TrainingBatch(batch.samples, batch.pixels, gathered)

    def _lab_of(self, sample: Sample) -> SimulatedLab:
        return self._jitter(self._choose_lab(sample), sample.jitter)

    def _jitter(self, lab: SimulatedLab, seed: int) -> SimulatedLab:
        jitter = self.config.statistics_jitter
        return lab.with_jitter(jitter, np.random.default_rng(seed)) if jitter else lab

    def _choose_lab(self, sample: Sample) -> SimulatedLab:
        slide = self.source.tiles[sample.tile].slide
        labs, clean = self._labs[slide], self.config.clean_share
        if sample.lab < clean:
            return own_lab(stain_of(self.slides[slide]))
        return labs[min(int((sample.lab - clean) / (1 - clean) * len(labs)), len(labs) - 1)]


def stain_of(slide: StoredSlide) -> StainStatistics:
    """Return a slide's stain; TrainingError where it was not measured."""
    if slide.record.stain is None:
        raise TrainingError(
            f"The stain of {slide.record.slide_id} was not measured, so no template can be made",
            "Tile the slide again, or leave it out",
        )
    return slide.record.stain
