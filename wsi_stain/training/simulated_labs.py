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
from wsi_stain.stain.statistics import StainConfig, StainStatistics, slide_statistics
from wsi_stain.stain.template import Template, apply_template
from wsi_stain.training.augment import Perturbation, draw_perturbation, perturb, perturbed_white

POOL_PIXELS = 50_000
"""Pixels of a slide on which a look is measured."""

_POOL_TILES = 64
_DRAWS_EACH = 4


@dataclass(frozen=True)
class SimulatedLab:
    """One slide as one laboratory shows it.

    Attributes:
        perturbation: The laboratory, or None for the slide's own.
        own: Stain of the slide as it is.
        statistics: Stain of the slide as shown.
    """

    perturbation: Perturbation | None
    own: StainStatistics
    statistics: StainStatistics

    def simulate(self, pixels: Tensor) -> Tensor:
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
        values: Tensor = apply_template(self.simulate(pixels), self.statistics, template)
        return values


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
    own: SimulatedLab
    foreign: SimulatedLab


def pixel_pool(tiles: Sequence[NDArray[np.uint8]], rng: np.random.Generator) -> NDArray[np.uint8]:
    """About 50,000 pixels, (N, 3), scattered over up to 64 of the tiles."""
    chosen = rng.permutation(len(tiles))[:_POOL_TILES]
    each = POOL_PIXELS // len(chosen)
    return np.concatenate([rng.choice(tiles[index].reshape(-1, 3), each) for index in chosen])


def own_lab(own: StainStatistics) -> SimulatedLab:
    """The slide as it is."""
    return SimulatedLab(None, own, own)


def draw_simulated_labs(
    pool: NDArray[np.uint8],
    own: StainStatistics,
    count: int,
    strength: float,
    rng: np.random.Generator,
    config: StainConfig | None = None,
) -> list[SimulatedLab]:
    """Draw laboratories and measure each as a foreign slide would be; one that would be refused is drawn again.

    Args:
        pool: Pixels of the slide, (N, 3).
        own: The slide's own stain.
        count: Looks wanted; fewer come back when too many are refused.
        strength: See `draw_perturbation`.
        rng: Source of chance.
        config: How the slide's own stain was measured.
    """
    labs: list[SimulatedLab] = []
    for _ in range(count * _DRAWS_EACH):
        if len(labs) == count:
            break
        perturbation = draw_perturbation(rng, strength)
        try:
            labs.append(SimulatedLab(perturbation, own, _measure(pool, perturbation, own, config)))
        except StainError:
            continue
    return labs


def _measure(
    pool: NDArray[np.uint8], perturbation: Perturbation, own: StainStatistics, config: StainConfig | None
) -> StainStatistics:
    shown = np.rint(perturb(pool, perturbation, own)).astype(np.uint8)
    return slide_statistics(shown, perturbed_white(own.white, perturbation), own.white_origin, config)
