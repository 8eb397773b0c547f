"""What a training leaves to look at: scores on held-out tiles, epoch by epoch, and panels of pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from wsi_stain.journal import atomic_write
from wsi_stain.looks import Look
from wsi_stain.metrics import ciede2000, psnr, ssim
from wsi_stain.pix2pix.generator import Generator
from wsi_stain.stain import Template

_Pixels = NDArray[np.uint8]
_SCORES: dict[str, Callable[[_Pixels, _Pixels], float]] = {"psnr": psnr, "ssim": ssim, "ciede2000": ciede2000}
_CHUNK = 8


@dataclass(frozen=True)
class HeldOut:
    """A tile that is never trained on.

    Attributes:
        pixels: RGB as the slide has them, (256, 256, 3), uint8; also the target.
        own: The slide as it is.
        foreign: The slide as another laboratory shows it.
    """

    pixels: Tensor
    own: Look
    foreign: Look


def to_rgb(y_BCHW: Tensor) -> NDArray[np.uint8]:
    """Generated values in [-1, 1] as pixels, (B, H, W, 3)."""
    pixels = ((y_BCHW.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.movedim(1, -1).cpu().numpy())


def generated(generator: Generator, templates: Sequence[Tensor], autocast: torch.autocast) -> NDArray[np.uint8]:
    """Colour templates, (C, H, W) each, with a generator in eval mode: (B, H, W, 3)."""
    parts = []
    with torch.inference_mode(), autocast:
        for start in range(0, len(templates), _CHUNK):
            x_BCHW = torch.stack(list(templates[start : start + _CHUNK]))
            parts.append(to_rgb(generator(x_BCHW.to(memory_format=torch.channels_last))))
    return np.concatenate(parts)


def score(
    generator: Generator, tiles: Sequence[HeldOut], template: Template, autocast: torch.autocast
) -> dict[str, float]:
    """Mean scores against the slide's own pixels.

    Returns:
        For `clean` (the slide's own look), `perturbed` (another laboratory's) and `untouched` (the latter without the
        generator): PSNR in dB, SSIM of luminance, CIEDE2000. Empty where there are no tiles.
    """
    if not tiles:
        return {}
    rows: dict[str, Iterable[_Pixels]] = {
        "clean": generated(generator, [tile.own.template(tile.pixels, template) for tile in tiles], autocast),
        "perturbed": generated(generator, [tile.foreign.template(tile.pixels, template) for tile in tiles], autocast),
        "untouched": [tile.foreign.show(tile.pixels).cpu().numpy() for tile in tiles],
    }
    targets = [tile.pixels.cpu().numpy() for tile in tiles]
    return {
        f"{row}_{name}": float(np.mean([measure(a, b) for a, b in zip(images, targets, strict=True)]))
        for row, images in rows.items()
        for name, measure in _SCORES.items()
    }


def write_panel(
    path: Path, generator: Generator, tiles: Sequence[HeldOut], template: Template, autocast: torch.autocast
) -> None:
    """Draw one row a tile, as another laboratory shows it: template (hematoxylin, if two stains), generated, target."""
    templates = [tile.foreign.template(tile.pixels, template) for tile in tiles]
    pictures = generated(generator, templates, autocast)
    cells: list[Tensor] = []
    for made, tile, picture in zip(templates, tiles, pictures, strict=True):
        gray = ((1 - made[0]) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()
        cells += [gray.expand(3, -1, -1), torch.from_numpy(picture).movedim(-1, 0), tile.pixels.cpu().movedim(-1, 0)]
    grid = make_grid(cells, nrow=3, padding=4, pad_value=255)
    atomic_write(path, lambda file: Image.fromarray(grid.movedim(0, -1).numpy()).save(file, "PNG"))


@dataclass
class MetricsFile:
    """The table of epochs, rewritten whole each time so that it is never torn.

    Attributes:
        path: Where it goes.
        rows: Epochs so far.
    """

    path: Path
    rows: list[dict[str, str]] = field(default_factory=list)

    def add(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Add one epoch and write the file."""
        shown = {name: f"{value:.6g}" for name, value in values.items()}
        self.rows.append({"epoch": str(epoch), "step": str(step), **shown})
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        atomic_write(self.path, text.getvalue().encode())
