"""Patches as other laboratories would show them: a transform for torchvision v2, `StainNormalize` backwards.

The laboratories are those that training simulates, drawn anew for each image, or those of `simulate` by name. They
change a slide's own stain, so the transform is given the stain of slides; it takes no checkpoint and no GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch

from wsi_stain.core.arrays import RgbImage
from wsi_stain.core.errors import ConfigError
from wsi_stain.laboratories.colours import laboratory_table
from wsi_stain.laboratories.named import NamedLaboratory, load_laboratories
from wsi_stain.laboratories.perturbation import Perturbation, draw_perturbation, perturb
from wsi_stain.normalize.slide_transform import SlideTransform
from wsi_stain.stain.colour_table import apply_table
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import TiledSlide, TileStore

StainSource: TypeAlias = TiledSlide | StainStatistics


class StainAugment(SlideTransform[StainStatistics]):
    """Shows images of patches as simulated laboratories would.

    Takes what `SlideTransform` says. Each image, also each of a batch, gets a laboratory of its own, by torch's source
    of chance: `torch.manual_seed` repeats it, and workers of a DataLoader differ.

    Args:
        slides: A slide that the patches are from, or all of them by id, such as a whole `TileStore`; or their stain.
        laboratories: Names of shipped laboratories, YAML files, or laboratories, of which one is drawn for each image;
            none draws any laboratory at random.
        strength: Of laboratories drawn at random: 0 changes nothing, 1 is about as far as real ones lie apart.
        p: Share of the images that are changed.

    Raises:
        StainError: The stain of a slide was not measured.
        ConfigError: There is no such laboratory, or a number is out of range.
    """

    def __init__(
        self,
        slides: StainSource | Mapping[str, StainSource] | TileStore,
        laboratories: Sequence[str | NamedLaboratory] = (),
        strength: float = 1.0,
        p: float = 1.0,
    ) -> None:
        if not 0 <= p <= 1 or not 0 <= strength <= 3:
            raise ConfigError(f"p is {p}, strength {strength}", "Give p from 0 to 1, and strength from 0 to 3")
        by_id = {"": slides} if isinstance(slides, StainSource) else {name: slides[name] for name in slides}
        super().__init__({name: _stain_of(source) for name, source in by_id.items()})
        self.laboratories = _load_all(laboratories)
        self.strength, self.p = strength, p

    def augment(self, pixels: RgbImage, slide: str | None = None) -> RgbImage:
        """Show a patch, an array (h, w, 3) uint8 RGB, as another laboratory would.

        Args:
            pixels: The patch.
            slide: The slide it is from, where the transform has several.

        Raises:
            ConfigError: It is no such array; or the slide is not known, or must be named.
        """
        return self.change_patch(pixels, slide)

    def change(self, pixels: RgbImage, known: StainStatistics) -> RgbImage:
        """Show an image, (h, w, 3), of a slide with the stain `known`."""
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        if rng.uniform() >= self.p:
            return pixels.copy()
        if not self.laboratories:
            return _show(pixels, draw_perturbation(rng, self.strength), known)
        laboratory = self.laboratories[int(rng.integers(len(self.laboratories)))]
        if laboratory.table is not None:
            return apply_table(laboratory_table(laboratory, known), pixels)
        return _show(pixels, laboratory.perturbation(known.white), known)


def _show(pixels: RgbImage, perturbation: Perturbation, stain: StainStatistics) -> RgbImage:
    return np.asarray(np.rint(perturb(pixels, perturbation, stain, beyond_white=True)), np.uint8)


def _stain_of(source: StainSource) -> StainStatistics:
    return source if isinstance(source, StainStatistics) else source.require_stain()


def _load_all(laboratories: Sequence[str | NamedLaboratory]) -> list[NamedLaboratory]:
    found: list[NamedLaboratory] = []
    for each in laboratories:
        found += [each] if isinstance(each, NamedLaboratory) else load_laboratories(each)
    return found
