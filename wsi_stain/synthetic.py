"""Slides whose truth is known: synthetic tissue stained by two laboratories, and real pixels as by other scanners.

Shares no code with the stain statistics, the training's perturbations or the baselines on purpose: what is measured on
these slides must not have been made by the arithmetic that is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import Field
from scipy.ndimage import gaussian_filter

from wsi_stain.geometry import Size
from wsi_stain.journal import atomic_write
from wsi_stain.settings import Settings
from wsi_stain.synthetic_tissue import render_tissue

__all__ = [
    "LABORATORIES",
    "SCANNERS",
    "Cohort",
    "Laboratory",
    "Scanner",
    "draw_pen",
    "render_tissue",
    "rescan",
    "stain_tissue",
    "write_cohort",
    "write_slide",
]

Rgb8: TypeAlias = NDArray[np.uint8]
Triple: TypeAlias = tuple[float, float, float]
Pen: TypeAlias = Literal["blue", "green", "black"]

_QUALITY = 90
_MPP = 0.25
_ROWS = 512
_PENS: dict[Pen, Triple] = {"blue": (1.5, 0.75, 0.12), "green": (1.5, 0.3, 0.9), "black": (1.9, 1.8, 1.7)}


class Laboratory(Settings):
    """How tissue is stained and scanned in one place.

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
    hematoxylin: Triple
    eosin: Triple
    hematoxylin_gain: float = Field(gt=0)
    eosin_gain: float = Field(gt=0)
    white: Triple
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
            white=(246, 240, 229),
            gamma=0.92,
            blur_px=0.7,
        ),
    )
}
"""Two clearly different ones: `reference`, purple-blue and crisp, and `other`, pink-red with pale hematoxylin."""


@dataclass(frozen=True)
class Cohort:
    """Where the slides of a synthetic study are.

    Attributes:
        reference: Folder with the reference laboratory's slide.
        slides: Folder with the other laboratory's slides, nested.
        truth: The same tissue stained by the reference, by the slide's path relative to `slides`; empty unless asked for.
    """

    reference: Path
    slides: Path
    truth: dict[str, Path]


def stain_tissue(concentrations: NDArray[np.float32], laboratory: Laboratory, seed: int) -> Rgb8:
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
    return np.clip(np.rint(light), 0, 254).astype(np.uint8)


def draw_pen(pixels: Rgb8, colour: Pen, seed: int, width_px: float) -> Rgb8:
    """A copy with a stroke of a marker across one corner.

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
    points = [(float(x), float(y)) for x, y in zip(width * (0.55 + 0.43 * t), height * (0.04 + 0.4 * t**2 + wave), strict=True)]
    canvas = Image.new("L", (width, height))
    ImageDraw.Draw(canvas).line(points, fill=255, width=max(1, round(width_px)), joint="curve")
    cover = gaussian_filter(np.asarray(canvas, np.float32) / 255, 1.5)[..., None]
    ink = np.exp(-cover * np.asarray(_PENS[colour], np.float32))
    return np.rint(pixels * ink).astype(np.uint8)


def write_slide(
    path: Path, pixels: Rgb8, mpp: float, objective_power: float = 40, style: Literal["tiff", "svs"] = "tiff"
) -> None:
    """Write a tiled pyramid of JPEG tiles; the same bytes for the same pixels.

    Args:
        path: Written as a whole or not at all.
        pixels: RGB of level 0, (h, w, 3).
        mpp: Resolution, um per px.
        objective_power: Named in Aperio's description; plain TIFF has no place for it.
        style: "tiff": 256 px tiles, levels by 2, resolution tags. "svs": as Aperio, 240 px tiles, levels by 4, and a
            thumbnail as second page.
    """

    def write(file: BinaryIO) -> None:
        with tifffile.TiffWriter(file) as tiff:
            if style == "svs":
                _write_svs(tiff, pixels, mpp, objective_power)
            else:
                _write_tiff(tiff, pixels, mpp)

    atomic_write(path, write)


def _write_tiff(tiff: tifffile.TiffWriter, pixels: Rgb8, mpp: float) -> None:
    for number, level in enumerate(_levels(pixels, 2, 256)):
        per_cm = 1e4 / (mpp * 2**number)
        _page(tiff, level, tile=(256, 256), resolution=(per_cm, per_cm), subfiletype=int(number > 0))


def _write_svs(tiff: tifffile.TiffWriter, pixels: Rgb8, mpp: float, objective_power: float) -> None:
    levels = list(_levels(pixels, 4, 240))
    height, width = pixels.shape[:2]
    head = f"Aperio Image Library v12.0.0\r\n{width}x{height}"
    tail = f"JPEG/RGB Q={_QUALITY}|AppMag = {objective_power:g}|MPP = {mpp:.4f}"
    _page(tiff, levels[0], tile=(240, 240), description=f"{head} [0,0 {width}x{height}] (240x240) {tail}")
    small = _shrunk(pixels, Size(*(max(1, round(side * 512 / max(width, height))) for side in (width, height))))
    _page(tiff, small, rowsperstrip=16, description=f"{head} -> {small.shape[1]}x{small.shape[0]} - |{tail}")
    for level in levels[1:]:
        size = f"{level.shape[1]}x{level.shape[0]}"
        _page(tiff, level, tile=(240, 240), description=f"{head} [0,0 {width}x{height}] (240x240) -> {size} {tail}")


def _page(tiff: tifffile.TiffWriter, pixels: Rgb8, **options: Any) -> None:
    tiff.write(
        np.ascontiguousarray(pixels),
        photometric="rgb",  # tifffile then converts to YCbCr 4:2:0 and tags it so; with "ycbcr" it does not convert
        compression="jpeg",
        compressionargs={"level": _QUALITY},
        resolutionunit="CENTIMETER",
        metadata=None,
        software=False,
        **options,
    )


def _levels(pixels: Rgb8, factor: int, smallest: int) -> list[Rgb8]:
    """The image and ever smaller ones, by `factor` with sides rounded up, to the first that fits in `smallest` px."""
    levels = [pixels]
    while max(levels[-1].shape[:2]) > smallest:
        height, width = levels[-1].shape[:2]
        levels.append(_shrunk(levels[-1], Size(-(-width // factor), -(-height // factor)), factor))
    return levels


def _shrunk(pixels: Rgb8, size: Size, factor: int | None = None) -> Rgb8:
    """Box-filtered; with a factor, the last pixels reach over the edge, where the edge is repeated."""
    if factor:
        rows, cols = size.height * factor - pixels.shape[0], size.width * factor - pixels.shape[1]
        pixels = np.pad(pixels, ((0, rows), (0, cols), (0, 0)), mode="edge")
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


@dataclass(frozen=True)
class _Plan:
    """One slide of the cohort: its tissue, and how it is written."""

    name: str
    size: Size
    seed: int
    style: Literal["tiff", "svs"]
    pen: Pen | None = None


def write_cohort(directory: Path, *, width: int = 3000, truth: bool = False, broken: bool = False) -> Cohort:
    """Write a small study: a reference slide, and three slides of another laboratory. What exists is left as it is.

    Args:
        directory: Gets `reference/`, `slides/` and, if asked for, `truth/`.
        width: Of the slides, px, at 40x (0.25 um per px); 3000 gives slides of 3000 x 2500.
        truth: Also write what each slide would be in the reference's stain.
        broken: Also write a truncated slide.
    """
    height = width * 5 // 6
    plans = [
        _Plan("plain.tiff", Size(width, height), 11, "tiff"),
        _Plan("marked.svs", Size(width, height), 12, "svs", "blue"),
        _Plan("nested/odd.tiff", Size(width * 4 // 5 + 37, height * 11 // 10 + 11), 13, "tiff"),
    ]
    cohort = Cohort(directory / "reference", directory / "slides", {})
    _write_stained(_Plan("", Size(width, height), 10, "svs"), {"reference": cohort.reference / "ref_01.svs"})
    for plan in plans:
        wanted = {"other": cohort.slides / plan.name}
        if truth:
            wanted["reference"] = cohort.truth[plan.name] = directory / "truth" / plan.name
        _write_stained(plan, wanted)
    if broken:
        _write_broken(cohort.slides / "broken.svs", cohort.slides / "marked.svs")
    return cohort


def _write_stained(plan: _Plan, wanted: dict[str, Path]) -> None:
    """Write one tissue as stained by each laboratory in `wanted`, unless the file is there."""
    missing = {name: path for name, path in wanted.items() if not path.exists()}
    if not missing:
        return
    tissue = render_tissue(plan.size, _MPP, plan.seed)
    for name, path in missing.items():
        pixels = stain_tissue(tissue, LABORATORIES[name], plan.seed)
        if plan.pen and name != "reference":
            pixels = draw_pen(pixels, plan.pen, plan.seed, width_px=plan.size.width / 25)
        write_slide(path, pixels, _MPP, style=plan.style)


def _write_broken(path: Path, whole: Path) -> None:
    if not path.exists():
        content = whole.read_bytes()
        atomic_write(path, content[: len(content) // 3])


class Scanner(Settings):
    """How real H&E pixels are recoloured, as if another laboratory had stained and another scanner seen them.

    Attributes:
        name: Of the scanner.
        hematoxylin_gain: Factor on hematoxylin.
        eosin_gain: Factor on eosin.
        hematoxylin_turn: Added to the unit OD vector of hematoxylin, R, G, B.
        eosin_turn: Added to the unit OD vector of eosin, R, G, B.
        matrix: Colour matrix on linear-like RGB, rows are the outputs; each sums to about 1.
        balance: White balance, factors on R, G, B.
        gamma: Exponent on RGB.
        contrast: Strength of an S-shaped tone curve of each channel, 0 to 0.5.
    """

    name: str
    hematoxylin_gain: float = Field(gt=0)
    eosin_gain: float = Field(gt=0)
    hematoxylin_turn: Triple
    eosin_turn: Triple
    matrix: tuple[Triple, Triple, Triple]
    balance: Triple
    gamma: float = Field(gt=0)
    contrast: Triple


SCANNERS: dict[str, Scanner] = {
    scanner.name: scanner
    for scanner in (
        Scanner(
            name="pink",
            hematoxylin_gain=0.75,
            eosin_gain=1.35,
            hematoxylin_turn=(-0.10, 0.06, 0.05),
            eosin_turn=(0.02, -0.03, 0.12),
            matrix=((1.06, -0.04, -0.02), (-0.03, 1.02, 0.01), (0.02, -0.06, 1.04)),
            balance=(1.0, 0.985, 0.95),
            gamma=0.95,
            contrast=(0.10, 0.12, 0.05),
        ),
        Scanner(
            name="blue",
            hematoxylin_gain=1.35,
            eosin_gain=0.80,
            hematoxylin_turn=(0.10, -0.03, -0.10),
            eosin_turn=(0.14, -0.03, -0.05),
            matrix=((0.95, 0.04, 0.01), (0.02, 0.97, 0.01), (-0.03, -0.02, 1.05)),
            balance=(0.96, 0.985, 1.0),
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


def rescan(pixels: Rgb8, scanner: Scanner) -> Rgb8:
    """Recolour real H&E as by another laboratory and scanner; structure stays, glass stays light.

    Args:
        pixels: RGB, (h, w, 3).
        scanner: What changes.

    Returns:
        (h, w, 3); the recoloured pixels are the input, and `pixels` the known truth.
    """
    out = np.empty_like(pixels)
    for start in range(0, pixels.shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        out[rows] = _rescan_strip(pixels[rows], scanner)
    return out


def _rescan_strip(pixels: Rgb8, scanner: Scanner) -> Rgb8:
    transmitted = (np.arange(256, dtype=np.float32) + 1) / 256
    density = -np.log(transmitted)[pixels]
    light = np.exp(-(density @ _density_change(scanner)))
    light = light @ np.asarray(scanner.matrix, np.float32).T * np.asarray(scanner.balance, np.float32)
    light = np.clip(light, 0, 1) ** np.float32(scanner.gamma)
    bend = light - np.asarray(scanner.contrast, np.float32) * np.sin(2 * np.pi * light) / np.pi
    return np.clip(np.rint(bend * 255), 0, 255).astype(np.uint8)


def _density_change(scanner: Scanner) -> NDArray[np.float32]:
    """(3, 3): what OD, as a row, is multiplied with; unmixes, scales both stains and mixes with turned vectors."""
    turned = _STAINS.copy()
    turned[0] += scanner.hematoxylin_turn
    turned[1] += scanner.eosin_turn
    turned[:2] /= np.linalg.norm(turned[:2], axis=1, keepdims=True)
    gains = np.diag([scanner.hematoxylin_gain, scanner.eosin_gain, 1.0])
    change: NDArray[np.float32] = (np.linalg.inv(_STAINS) @ gains @ turned).astype(np.float32)
    return change
