"""The training tiles as other laboratories and scanners would have shown them, each measured as a foreign slide is.

A *simulated laboratory* comes with the stain statistics that it leaves on the slide. The generator sees
the template made with those statistics, and so learns to undo only what statistics of the whole slide leave over.

There the statistics of a slide are nearly exact. In life a slide shows other tissue than the reference, is measured on
few tiles, and has a white point that is a few levels off: what statistics make of the very same tissue then differs
from the reference. So statistics are jittered: a generator that has seen this reads the tissue itself as well. A
strength of 1 is about as far off as the statistics of two real scanners were.

Shape legend: T tiles, N pixels of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_stain.core.arrays import Rgb, to_rgb
from wsi_stain.core.errors import StainError
from wsi_stain.laboratories.perturbation import (
    Optics,
    Perturbation,
    draw_perturbation,
    perturb,
    perturbed_white,
    tilt_vector,
)
from wsi_stain.stain.statistics import StainConfig, StainStatistics, slide_statistics
from wsi_stain.stain.template import Template, TemplateTables, apply_template
from wsi_stain.stain.vectors import LUMINANCE, angle_deg

POOL_PIXELS = 50_000
"""Pixels of a slide on which a laboratory is measured."""

_POOL_TILES = 64
_DRAWS_EACH = 4

_EACH_LEVEL = 0.45
_BOTH_LEVELS = 0.22
_TILT_DEG = 3.0
_WHITE_LEVELS = 4.0
_LEAN = 2.0
_FEWER = 2.0
_FEWEST_TILES = 4
_MIN_SEPARATION_DEG = StainConfig().min_separation_deg


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
        """Return this laboratory with statistics that are off; see `jitter_statistics`."""
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
        pixels: RGB as the slide has them, in the generator's pixels, (side, side, 3), uint8; also the target.
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
        jitter: Strength with which each laboratory's slide shows other tissue (see `recompose`);
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


def jitter_statistics(stain: StainStatistics, strength: float, rng: np.random.Generator) -> StainStatistics:
    """Return statistics that are off by chance.

    At strength 1 the levels of each stain are multiplied by exp(U(-.45, .45)), those of both together by
    exp(U(-.22, .22)); luminance follows from the two stains. Each vector turns by up to 3 degrees in two directions,
    and each channel of the white point moves by up to 4 grey levels.

    Args:
        stain: As it was measured.
        strength: Factor on all of these ranges; 0 changes nothing, less draws what is as far off the other way.
        rng: Source of chance; the same number of draws for every strength.
    """
    spread = strength * rng.uniform(-1, 1, 10)
    h, e = (float(factor) for factor in np.exp(_EACH_LEVEL * spread[:2] + _BOTH_LEVELS * spread[2]))
    vectors = _turn_vectors(stain.vectors, _TILT_DEG * spread[3:7])
    white = np.clip(np.asarray(stain.white) + _WHITE_LEVELS * spread[7:], 0, 255)
    light = np.asarray(stain.vectors) @ np.asarray(LUMINANCE)
    return stain.model_copy(
        update={
            "white": to_rgb(white),
            "vectors": vectors,
            "h_nuclei": stain.h_nuclei * h,
            "h_stroma": stain.h_stroma * h,
            "e_nuclei": stain.e_nuclei * e,
            "e_stroma": stain.e_stroma * e,
            "lum_nuclei": stain.lum_nuclei * _mean_factor(light * (stain.h_nuclei, stain.e_nuclei), (h, e)),
            "lum_stroma": stain.lum_stroma * _mean_factor(light * (stain.h_stroma, stain.e_stroma), (h, e)),
        }
    )


def recompose(pool_TNC: NDArray[np.uint8], strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return pixels of a slide that shows less of it, and tissue of another composition.

    Args:
        pool_TNC: RGB of tiles, (T, N, 3).
        strength: At 1 down to a seventh of the tiles, and up to 55 times as many of the tile richest in nuclei as of
            the poorest, or the other way round; 0 draws as many tiles, all alike.
        rng: Source of chance.

    Returns:
        (n, 3), whole tiles, drawn with replacement; at least four.
    """
    tiles = len(pool_TNC)
    red = pool_TNC[..., 0].mean(axis=1)  # hematoxylin absorbs red, eosin hardly does
    nuclear = 1 - 2 * np.argsort(np.argsort(red)) / max(tiles - 1, 1)
    lean, fewer = rng.uniform(-1, 1), rng.uniform()
    weights = np.exp(_LEAN * strength * lean * nuclear)
    count = max(_FEWEST_TILES, round(tiles * np.exp(-_FEWER * strength * fewer)))
    pixels: NDArray[np.uint8] = pool_TNC[rng.choice(tiles, count, p=weights / weights.sum())].reshape(-1, 3)
    return pixels


def _turn_vectors(vectors: tuple[Rgb, Rgb], tilts_deg: NDArray[np.float64]) -> tuple[Rgb, Rgb]:
    """Turn each vector by two angles; leave them where the two would come too close to be told apart."""
    tilts = tilts_deg.reshape(2, 2)
    h, e = (to_rgb(tilt_vector(np.asarray(v), (a, b))) for v, (a, b) in zip(vectors, tilts, strict=True))
    return (h, e) if angle_deg(h, e) >= _MIN_SEPARATION_DEG else vectors


def _mean_factor(weights: NDArray[np.float64], factors: tuple[float, float]) -> float:
    """Return the weighted mean of the factors of hematoxylin and eosin."""
    return float(weights @ factors / weights.sum())
