"""The training tiles as other laboratories and scanners would have shown them, each measured as a foreign slide is.

A *simulated laboratory* comes with the stain statistics that it leaves on the slide. The generator sees
the template made with those statistics, and so learns to undo only what statistics of the whole slide leave over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_stain.core.errors import StainError
from wsi_stain.laboratories.perturbation import Optics, Perturbation, draw_perturbation, perturb, perturbed_white
from wsi_stain.stain.statistics import StainConfig, StainStatistics, slide_statistics
from wsi_stain.stain.template import Template, TemplateTables, apply_template
from wsi_stain.training.statistics_jitter import jitter_statistics, recompose

POOL_PIXELS = 50_000
"""Pixels of a slide on which a laboratory is measured."""

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
        """Show pixels as a scanner there would have stored them.

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
        """Make the generator's input for pixels as this laboratory shows them.

        Args:
            pixels: RGB, (H, W, 3), uint8, as the slide has them.
            template: Kind and reference.

        Returns:
            (H, W, C), float32 in [-1, 1].
        """
        values: Tensor = apply_template(self.simulate(pixels), self.statistics, template)
        return values

    def with_jitter(self, strength: float, rng: np.random.Generator) -> SimulatedLab:
        """Return this laboratory with statistics that are off; see `statistics_jitter.jitter_statistics`."""
        return replace(self, statistics=jitter_statistics(self.statistics, strength, rng))


@dataclass(frozen=True)
class LabBatch:
    """The laboratories of a batch's images, gathered on the host so that a device makes all templates at once.

    Attributes:
        changed: Numbers of the images that are shown otherwise than they are, int64.
        optics: What is done to these; None where there are none.
        tables: What makes the templates of all.
    """

    changed: Any
    optics: Optics | None
    tables: TemplateTables

    @classmethod
    def of(cls, labs: Sequence[SimulatedLab], template: Template) -> LabBatch:
        """Gather laboratories, one an image."""
        shown = [(lab.perturbation, lab.own) for lab in labs if lab.perturbation is not None]
        changed = [number for number, lab in enumerate(labs) if lab.perturbation is not None]
        tables = TemplateTables.of([lab.statistics for lab in labs], template)
        return cls(np.asarray(changed, np.int64), Optics.of(shown) if shown else None, tables)

    def pin(self) -> LabBatch:
        """Return the same in page-locked memory: its copies to a GPU need not wait for what that is at work on."""
        return self._map(lambda values: torch.as_tensor(values).pin_memory())

    def templates(self, pixels_BHWC: Tensor) -> Tensor:
        """Make the generator's input, (B, H, W, C) float32, of images, (B, H, W, 3) uint8, as `SimulatedLab` does."""
        there = self._map(lambda values: torch.as_tensor(values).to(pixels_BHWC.device, non_blocking=True))
        if there.optics is not None:
            own, pixels_BHWC = pixels_BHWC, pixels_BHWC.clone()
            pixels_BHWC[there.changed] = there.optics.show(own[there.changed]).round().to(torch.uint8)
        values: Tensor = there.tables.look_up(pixels_BHWC)
        return values

    def _map(self, change: Callable[[Any], Tensor]) -> LabBatch:
        """Return the same with each array changed."""
        optics = self.optics and Optics(*(change(getattr(self.optics, each.name)) for each in fields(Optics)))
        curve = (each if isinstance(each, float) else change(each) for each in (self.tables.bend, self.tables.knee))
        return LabBatch(change(self.changed), optics, TemplateTables(change(self.tables.sums), *curve))


@dataclass(frozen=True)
class HeldOut:
    """A tile that is never trained on.

    Attributes:
        pixels: RGB as the slide has them, (256, 256, 3), uint8; also the target.
        pool: Pixels of its slide, (T, N, 3) of T tiles.
        measured: What the slide is measured on as the other laboratory shows it, (n, 3): where training takes
            statistics that are off, pixels of another composition.
        own: The slide as it is.
        foreign: The slide as another laboratory shows it.
    """

    pixels: Tensor
    pool: NDArray[np.uint8]
    measured: NDArray[np.uint8]
    own: SimulatedLab
    foreign: SimulatedLab


def pixel_pool(tiles: Sequence[NDArray[np.uint8]], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return about 50,000 pixels, (T, N, 3), scattered over T of the tiles, at most 64."""
    chosen = rng.permutation(len(tiles))[:_POOL_TILES]
    each = POOL_PIXELS // len(chosen)
    return np.stack([rng.choice(tiles[index].reshape(-1, 3), each) for index in chosen])


def own_lab(own: StainStatistics) -> SimulatedLab:
    """Return the laboratory of the slide itself, which changes nothing."""
    return SimulatedLab(None, own, own)


def draw_simulated_labs(
    pool: NDArray[np.uint8],
    own: StainStatistics,
    count: int,
    strength: float,
    rng: np.random.Generator,
    config: StainConfig | None = None,
    jitter: float = 0.0,
) -> list[SimulatedLab]:
    """Draw laboratories and measure each as a foreign slide would be; one that would be refused is drawn again.

    Args:
        pool: Pixels of the slide, (T, N, 3) of T tiles.
        own: The slide's own stain.
        count: Laboratories wanted; fewer come back when too many are refused.
        strength: See `draw_perturbation`.
        rng: Source of chance.
        config: How the slide's own stain was measured.
        jitter: Strength with which each laboratory's slide shows other tissue (see `statistics_jitter.recompose`);
            0 measures all of the pool.
    """
    labs: list[SimulatedLab] = []
    for _ in range(count * _DRAWS_EACH):
        if len(labs) == count:
            break
        perturbation = draw_perturbation(rng, strength)
        measured = draw_measured(pool, jitter, rng)
        try:
            labs.append(SimulatedLab(perturbation, own, _measure(measured, perturbation, own, config)))
        except StainError:
            continue
    return labs


def draw_measured(pool: NDArray[np.uint8], jitter: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw the pixels, (n, 3), that a slide is measured on; all of the pool where statistics are exact."""
    return recompose(pool, jitter, rng) if jitter else pool.reshape(-1, 3)


def _measure(
    pixels: NDArray[np.uint8], perturbation: Perturbation, own: StainStatistics, config: StainConfig | None
) -> StainStatistics:
    shown = np.rint(perturb(pixels, perturbation, own)).astype(np.uint8)
    return slide_statistics(shown, perturbed_white(own.white, perturbation), own.white_origin, config)
