"""Staining and scanning of tissue in one laboratory, and accidents of slides: ink, blur."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import Field
from scipy.ndimage import gaussian_filter

from wsi_stain.core.arrays import Rgb, RgbImage
from wsi_stain.core.records import StrictRecord

Pen: TypeAlias = Literal["blue", "green", "black"]

_PENS: dict[Pen, Rgb] = {"blue": (1.5, 0.75, 0.12), "green": (1.5, 0.3, 0.9), "black": (1.9, 1.8, 1.7)}


class Laboratory(StrictRecord):
    """Staining and scanning in one laboratory.

    Attributes:
        name: Of the laboratory.
        hematoxylin: Natural-log OD in R, G, B of one unit of hematoxylin at gain 1.
        eosin: The same of eosin.
        hematoxylin_gain: How strongly is stained.
        eosin_gain: How strongly is stained.
        white: Colour of the glass, 0 to 254: scanners use 255 for what they did not scan.
        gamma: Exponent on transmitted light; above 1 has more contrast.
        blur_px: Standard deviation of the optics' blur, px.
        noise: Standard deviation of the camera's noise, of 255.
    """

    name: str
    hematoxylin: Rgb
    eosin: Rgb
    hematoxylin_gain: float = Field(gt=0)
    eosin_gain: float = Field(gt=0)
    white: Rgb
    gamma: float = Field(default=1.0, gt=0)
    blur_px: float = Field(default=0.5, ge=0)
    noise: float = Field(default=1.2, ge=0)


LABORATORIES: dict[str, Laboratory] = {
    laboratory.name: laboratory
    for laboratory in (
        Laboratory(
            name="reference",
            hematoxylin=(0.66, 0.68, 0.32),
            eosin=(0.13, 0.90, 0.40),
            hematoxylin_gain=1.40,
            eosin_gain=0.85,
            white=(243, 242, 245),
            gamma=1.05,
            blur_px=0.5,
        ),
        Laboratory(
            name="other",
            hematoxylin=(0.50, 0.78, 0.38),
            eosin=(0.08, 0.86, 0.52),
            hematoxylin_gain=0.95,
            eosin_gain=1.05,
            white=(246, 241, 232),
            gamma=0.92,
            blur_px=0.7,
        ),
    )
}
"""Two clearly different ones: `reference`, purple-blue and crisp, and `other`, pink-red with pale hematoxylin."""


def stain_tissue(concentrations: NDArray[np.float32], laboratory: Laboratory, seed: int = 0) -> RgbImage:
    """Stain and scan tissue: Lambert-Beer, then gamma, blur and noise.

    Args:
        concentrations: Of hematoxylin and eosin, (h, w, 2), from `render_tissue`.
        laboratory: Who stains and scans.
        seed: Of the camera's noise.

    Returns:
        RGB, (h, w, 3), never 255.
    """
    vectors = np.array(
        [
            np.multiply(laboratory.hematoxylin, laboratory.hematoxylin_gain),
            np.multiply(laboratory.eosin, laboratory.eosin_gain),
        ],
        np.float32,
    )
    light = np.exp(concentrations @ (-laboratory.gamma * vectors))
    light *= np.asarray(laboratory.white, np.float32)
    light = gaussian_filter(light, (laboratory.blur_px, laboratory.blur_px, 0))
    light += laboratory.noise * np.random.default_rng(seed).standard_normal(light.shape, dtype=np.float32)
    stained: RgbImage = np.clip(np.rint(light), 0, 254).astype(np.uint8)
    return stained


def draw_pen(pixels: RgbImage, colour: Pen, seed: int, width_px: float) -> RgbImage:
    """Copy with a stroke of a marker across one corner.

    Args:
        pixels: RGB, (h, w, 3).
        colour: Of the ink.
        seed: Of the stroke's shape.
        width_px: Of the stroke.
    """
    height, width = pixels.shape[:2]
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, 60)
    wave = 0.03 * np.sin(2 * np.pi * (rng.uniform(1, 2) * t + rng.random()))
    x, y = width * (0.55 + 0.43 * t), height * (0.04 + 0.4 * t**2 + wave)
    canvas = Image.new("L", (width, height))
    stroke = list(zip(x.tolist(), y.tolist(), strict=True))
    ImageDraw.Draw(canvas).line(stroke, fill=255, width=max(1, round(width_px)), joint="curve")
    cover = gaussian_filter(np.asarray(canvas, np.float32) / 255, 1.5)[..., None]
    ink = np.exp(-cover * np.asarray(_PENS[colour], np.float32))
    marked: RgbImage = np.rint(pixels * ink).astype(np.uint8)
    return marked


def defocus(pixels: RgbImage, seed: int, blur_px: float) -> RgbImage:
    """Copy with an oval patch out of focus, as under a bubble.

    Args:
        pixels: RGB, (h, w, 3).
        seed: Of the patch's position and shape; its axes are a third to a half of the slide's.
        blur_px: Standard deviation of the blur in the patch, px.
    """
    height, width = pixels.shape[:2]
    rng = np.random.default_rng(seed)
    y, x = np.linspace(0, 1, height, dtype=np.float32)[:, None], np.linspace(0, 1, width, dtype=np.float32)[None, :]
    (row, col), (tall, wide) = rng.uniform(0.35, 0.65, 2), rng.uniform(0.16, 0.25, 2)
    share = np.clip(8 * (1 - np.hypot((y - row) / tall, (x - col) / wide)), 0, 1)[..., None]
    blurred = gaussian_filter(pixels.astype(np.float32), (blur_px, blur_px, 0))
    return np.asarray(np.rint(pixels + share * (blurred - pixels)), np.uint8)
