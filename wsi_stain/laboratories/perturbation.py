"""Other laboratories and scanners, simulated on RGB. Knows stain, no slides and no network.

In the order in which light meets them: the stains (amount and colour of hematoxylin and eosin), the sensor (gamma, tone
curve), the white balance. Glass transmits everything, so it only follows the white balance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace
from array_api_compat import device as device_of
from numpy.typing import NDArray
from pydantic import Field

from wsi_stain.core.arrays import Rgb
from wsi_stain.core.records import StrictRecord
from wsi_stain.stain.statistics import Array, StainStatistics

Tilt: TypeAlias = tuple[float, float]
"""Rotation of a stain vector, degrees, towards two directions perpendicular to it and to each other."""


class Perturbation(StrictRecord):
    """One simulated laboratory and scanner; the defaults change nothing.

    Attributes:
        h_gain: Factor on the hematoxylin concentration.
        e_gain: Factor on the eosin concentration.
        h_tilt: Rotation of the hematoxylin vector.
        e_tilt: Rotation of the eosin vector.
        gamma: Exponent on the transmitted light of each channel.
        tone: Lift of the mid-tones, and S-shape, as shares of the transmitted light; -1 to 1 keeps both monotone.
        balance: Factor on the white of each channel.
    """

    h_gain: float = Field(default=1.0, gt=0)
    e_gain: float = Field(default=1.0, gt=0)
    h_tilt: Tilt = (0.0, 0.0)
    e_tilt: Tilt = (0.0, 0.0)
    gamma: Rgb = (1.0, 1.0, 1.0)
    tone: tuple[float, float] = (0.0, 0.0)
    balance: Rgb = (1.0, 1.0, 1.0)


def draw_perturbation(rng: np.random.Generator, strength: float = 1.0) -> Perturbation:
    """Draw a random laboratory.

    Args:
        rng: Source of chance.
        strength: 0 changes nothing; 1 is about as far as real laboratories and scanners lie apart.
    """

    def spread(half: float, count: int) -> tuple[float, ...]:
        return tuple(float(value) for value in rng.uniform(-half * strength, half * strength, count))

    def factors(half: float, count: int) -> tuple[float, ...]:
        return tuple(float(value) for value in np.exp(spread(half, count)))

    h_gain, e_gain = factors(0.45, 2)
    return Perturbation.model_validate(
        {
            "h_gain": h_gain,
            "e_gain": e_gain,
            "h_tilt": spread(6.0, 2),
            "e_tilt": spread(6.0, 2),
            "gamma": tuple(factor * g for factor in factors(0.15, 1) for g in factors(0.05, 3)),
            "tone": spread(0.2, 2),
            "balance": factors(0.06, 3),
        }
    )


def perturbed_white(white: Rgb, p: Perturbation) -> Rgb:
    """Return the white point of a slide after `perturb`."""
    red, green, blue = (min(255.0, (value + 1) * factor - 1) for value, factor in zip(white, p.balance, strict=True))
    return red, green, blue


def perturb(pixels: Array, p: Perturbation, reference: StainStatistics, beyond_white: bool = False) -> Array:
    """Show pixels as another laboratory and scanner would.

    Args:
        pixels: RGB, (..., 3), numpy or torch, values 0 to 255.
        p: The laboratory.
        reference: Stain of the slide the pixels are from.
        beyond_white: Whether what is brighter than the slide's glass stays so, as its noise is; else it becomes glass.

    Returns:
        (..., 3), float32 from 0 to 255, the same kind of array on the same device.
    """
    return Optics.of([(p, reference)]).show(pixels, beyond_white)


@dataclass(frozen=True)
class Optics:
    """What one simulated laboratory does to light, or B of them, each for a slide of its own.

    Attributes:
        white: The slide's white and one, (3,) or (B, 1, 1, 3), as all that follow, float32.
        mixing: What OD is multiplied by, (3, 3) or (B, 3, 3).
        gamma: Exponents.
        lift: Of the mid-tones, (1,) or (B, 1, 1, 1).
        shape: Of the S, likewise.
        shown_white: The white of what is shown, and one.
    """

    white: Array
    mixing: Array
    gamma: Array
    lift: Array
    shape: Array
    shown_white: Array

    @classmethod
    def of(cls, labs: Sequence[tuple[Perturbation, StainStatistics]]) -> Optics:
        """Gather what laboratories do, each with the stain of the slide that it shows."""

        def gather(rows: Sequence[Any]) -> NDArray[np.float32]:
            values = np.asarray(rows, np.float32)
            return values[0] if len(labs) == 1 else values.reshape(len(labs), 1, 1, -1)

        mixing = np.asarray([_mixing_matrix(p, own) for p, own in labs], np.float32)
        return cls(
            white=gather([np.asarray(own.white) + 1 for _, own in labs]),
            mixing=mixing[0] if len(labs) == 1 else mixing,
            gamma=gather([p.gamma for p, _ in labs]),
            lift=gather([p.tone[:1] for p, _ in labs]),
            shape=gather([p.tone[1:] for p, _ in labs]),
            shown_white=gather([np.asarray(perturbed_white(own.white, p)) + 1 for p, own in labs]),
        )

    def show(self, pixels: Array, beyond_white: bool = False) -> Array:
        """Show RGB pixels, (..., 3), or (B, H, W, 3) of as many slides, float32 from 0 to 255; see `perturb`."""
        xp = array_namespace(pixels)
        white, mixing, gamma, lift, shape, shown_white = (
            xp.asarray(getattr(self, each.name), device=device_of(pixels)) for each in fields(self)
        )
        light = (xp.astype(pixels, xp.float32) + 1) / white
        od = -xp.log(light if beyond_white else xp.clip(light, max=1.0))
        flat = od if mixing.ndim == 2 else xp.reshape(od, (od.shape[0], -1, 3))
        od = xp.reshape(xp.matmul(flat, mixing), od.shape) * gamma
        light = xp.exp(-(od if beyond_white else xp.clip(od, min=0.0)))
        light = light + light * (1 - light) * (lift + shape * (1 - 2 * light))
        return xp.clip(light * shown_white - 1, min=0.0, max=255.0)


@lru_cache(1024)
def _mixing_matrix(p: Perturbation, reference: StainStatistics) -> NDArray[np.float64]:
    """Return (3, 3): OD times this is OD with the other stains; what neither stain explains stays as it is."""
    own = np.asarray(reference.vectors)
    own = own / np.linalg.norm(own, axis=1, keepdims=True)
    other = np.stack([tilt_vector(own[0], p.h_tilt) * p.h_gain, tilt_vector(own[1], p.e_tilt) * p.e_gain])
    unmixing = np.linalg.pinv(own)
    mixing: NDArray[np.float64] = np.eye(3) + unmixing @ (other - own)
    return mixing


def tilt_vector(vector: NDArray[np.float64], tilt: Tilt) -> NDArray[np.float64]:
    """Return a unit OD vector, (3,), rotated on the sphere; components stay non-negative."""
    across = np.cross(vector, (1.0, 0.0, 0.0))
    across /= np.linalg.norm(across)
    along = np.cross(vector, across)
    moved = vector + np.tan(np.radians(tilt[0])) * across + np.tan(np.radians(tilt[1])) * along
    moved = np.maximum(moved, 0.0)
    return np.asarray(moved / np.linalg.norm(moved))
