"""Real H&E pixels as another laboratory would have stained and another scanner seen them: truth for real slides.

Shares no code with stain statistics and the training's perturbations on purpose: here optical density is unmixed with
fixed vectors, and the sensor has a colour matrix and tone curves that training never sees.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wsi_stain.core.arrays import Rgb, RgbImage
from wsi_stain.core.records import StrictRecord

__all__ = ["SCANNERS", "Scanner", "rescan"]

Bend: TypeAlias = Annotated[float, Field(ge=0, lt=0.5)]

_ROWS = 512
"""Rows of a strip: what lives in float32 at a time."""


class Scanner(StrictRecord):
    """Change of real H&E pixels, as if another laboratory had stained and another scanner seen them.

    Attributes:
        name: Of the scanner.
        hematoxylin_gain: Factor on hematoxylin.
        eosin_gain: Factor on eosin.
        hematoxylin_turn: Added to the unit OD vector of hematoxylin, R, G, B.
        eosin_turn: Added to the unit OD vector of eosin, R, G, B.
        matrix: Colour matrix on transmitted light, rows are the outputs; each sums to about 1, so that gray stays gray.
        balance: White balance, factors on R, G, B.
        gamma: Exponent on RGB.
        contrast: Strength of an S-shaped tone curve of each channel; below 0.5 it is monotone.
    """

    name: str
    hematoxylin_gain: float = Field(gt=0)
    eosin_gain: float = Field(gt=0)
    hematoxylin_turn: Rgb
    eosin_turn: Rgb
    matrix: tuple[Rgb, Rgb, Rgb]
    balance: Rgb
    gamma: float = Field(gt=0)
    contrast: tuple[Bend, Bend, Bend]


SCANNERS: dict[str, Scanner] = {
    scanner.name: scanner
    for scanner in (
        Scanner(
            name="pink",
            hematoxylin_gain=0.75,
            eosin_gain=1.15,
            hematoxylin_turn=(-0.10, 0.06, 0.05),
            eosin_turn=(0.02, -0.03, 0.12),
            matrix=((1.06, -0.04, -0.02), (-0.03, 1.02, 0.01), (0.02, -0.06, 1.04)),
            balance=(1.0, 0.985, 0.95),
            gamma=0.95,
            contrast=(0.10, 0.12, 0.05),
        ),
        Scanner(
            name="blue",
            hematoxylin_gain=1.12,
            eosin_gain=0.80,
            hematoxylin_turn=(0.08, -0.02, -0.07),
            eosin_turn=(0.14, -0.03, -0.05),
            matrix=((0.95, 0.04, 0.01), (0.02, 0.97, 0.01), (-0.03, -0.02, 1.05)),
            balance=(0.97, 0.985, 1.0),
            gamma=1.08,
            contrast=(0.10, 0.08, 0.15),
        ),
        Scanner(
            name="faded",
            hematoxylin_gain=0.62,
            eosin_gain=0.60,
            hematoxylin_turn=(-0.04, 0.00, 0.10),
            eosin_turn=(0.08, 0.00, 0.10),
            matrix=((0.93, 0.05, 0.02), (0.05, 0.90, 0.05), (0.02, 0.06, 0.92)),
            balance=(0.98, 0.97, 0.92),
            gamma=0.90,
            contrast=(0.05, 0.05, 0.02),
        ),
    )
}
"""Three that differ visibly from each other and from most real slides."""

# Hematoxylin, eosin and what neither explains, as rows; fixed, after Ruifrok and Johnston (2001).
_STAINS = np.array([[0.65, 0.70, 0.29], [0.10, 0.95, 0.28], [0.0, 0.0, 0.0]])
_STAINS[2] = np.cross(_STAINS[0], _STAINS[1])
_STAINS /= np.linalg.norm(_STAINS, axis=1, keepdims=True)


def rescan(pixels: RgbImage, scanner: Scanner) -> RgbImage:
    """Change the colours of real H&E as by another laboratory and scanner; structure stays, glass stays light.

    Args:
        pixels: RGB, (h, w, 3).
        scanner: What changes.

    Returns:
        (h, w, 3); the changed pixels are the input, and `pixels` the known truth.
    """
    out = np.empty_like(pixels)
    for start in range(0, pixels.shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        out[rows] = _rescan_strip(pixels[rows], scanner)
    return out


def _rescan_strip(pixels: RgbImage, scanner: Scanner) -> RgbImage:
    transmitted = (np.arange(256, dtype=np.float32) + 1) / 256
    density = -np.log(transmitted)[pixels]
    light = np.exp(-(density @ _density_change(scanner)))
    light = light @ np.asarray(scanner.matrix, np.float32).T * np.asarray(scanner.balance, np.float32)
    light = np.clip(light, 0, 1) ** np.float32(scanner.gamma)
    bend = light - np.asarray(scanner.contrast, np.float32) * np.sin(2 * np.pi * light) / np.pi
    return np.asarray(np.clip(np.rint(bend * 255), 0, 255), np.uint8)


def _density_change(scanner: Scanner) -> NDArray[np.float32]:
    """Compute the factors on OD as a row, (3, 3): unmixes, scales both stains and mixes with turned vectors."""
    turned = _STAINS.copy()
    turned[0] += scanner.hematoxylin_turn
    turned[1] += scanner.eosin_turn
    turned[:2] /= np.linalg.norm(turned[:2], axis=1, keepdims=True)
    gains = np.diag([scanner.hematoxylin_gain, scanner.eosin_gain, 1.0])
    change: NDArray[np.float32] = (np.linalg.inv(_STAINS) @ gains @ turned).astype(np.float32)
    return change
