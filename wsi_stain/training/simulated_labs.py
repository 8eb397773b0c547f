"""The training tiles as other laboratories and scanners would have shown them, each measured as a foreign slide is.

A *look* is one simulated laboratory together with the stain statistics that it leaves on the slide. The generator sees
the template made with those statistics, and so learns to undo only what statistics of the whole slide leave over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_stain.core.errors import StainError
from wsi_stain.stain.statistics import StainConfig, StainStatistics, Template, apply_template, slide_statistics
from wsi_stain.training.augment import Perturbation, draw_perturbation, perturb, perturbed_white

POOL_PIXELS = 50_000
"""Pixels of a slide on which a look is measured."""

_POOL_TILES = 64
_DRAWS_EACH = 4


@dataclass(frozen=True)
class Look:
    """One slide as one laboratory shows it.

    Attributes:
        perturbation: The laboratory, or None for the slide's own.
        own: Stain of the slide as it is.
        statistics: Stain of the slide as shown.
    """

    perturbation: Perturbation | None
    own: StainStatistics
    statistics: StainStatistics

    def show(self, pixels: Tensor) -> Tensor:
        """Pixels as a scanner there would have stored them.

        Args:
            pixels: RGB, (..., 3), uint8.

        Returns:
            The same shape and type.
        """
        if self.perturbation is None:
            return pixels
        shown: Tensor = perturb(pixels, self.perturbation, self.own)
        return shown.round().to(torch.uint8)

    def template(self, pixels: Tensor, template: Template) -> Tensor:
        """The generator's input for pixels as this laboratory shows them.

        Args:
            pixels: RGB, (H, W, 3), uint8, as the slide has them.
            template: Kind and reference.

        Returns:
            (H, W, C), float32 in [-1, 1].
        """
        made: Tensor = apply_template(self.show(pixels), self.statistics, template)
        return made


@dataclass(frozen=True)
class HeldOut:
    """A tile that is never trained on.

    Attributes:
        pixels: RGB as the slide has them, (256, 256, 3), uint8; also the target.
        pool: Pixels of its slide, (N, 3), to measure on.
        own: The slide as it is.
        foreign: The slide as another laboratory shows it.
    """

    pixels: Tensor
    pool: NDArray[np.uint8]
    own: Look
    foreign: Look


def pixel_pool(tiles: Sequence[NDArray[np.uint8]], rng: np.random.Generator) -> NDArray[np.uint8]:
    """About 50,000 pixels, (N, 3), scattered over up to 64 of the tiles."""
    chosen = rng.permutation(len(tiles))[:_POOL_TILES]
    each = POOL_PIXELS // len(chosen)
    return np.concatenate([rng.choice(tiles[index].reshape(-1, 3), each) for index in chosen])


def own_look(own: StainStatistics) -> Look:
    """The slide as it is."""
    return Look(None, own, own)


def draw_looks(
    pool: NDArray[np.uint8],
    own: StainStatistics,
    count: int,
    strength: float,
    rng: np.random.Generator,
    config: StainConfig | None = None,
) -> list[Look]:
    """Draw laboratories and measure each as a foreign slide would be; one that would be refused is drawn again.

    Args:
        pool: Pixels of the slide, (N, 3).
        own: The slide's own stain.
        count: Looks wanted; fewer come back when too many are refused.
        strength: See `draw_perturbation`.
        rng: Source of chance.
        config: How the slide's own stain was measured.
    """
    looks: list[Look] = []
    for _ in range(count * _DRAWS_EACH):
        if len(looks) == count:
            break
        drawn = draw_perturbation(rng, strength)
        try:
            looks.append(Look(drawn, own, _measured(pool, drawn, own, config)))
        except StainError:
            continue
    return looks


def _measured(
    pool: NDArray[np.uint8], drawn: Perturbation, own: StainStatistics, config: StainConfig | None
) -> StainStatistics:
    shown = np.rint(perturb(pool, drawn, own)).astype(np.uint8)
    return slide_statistics(shown, perturbed_white(own.white, drawn), own.white_origin, config)
