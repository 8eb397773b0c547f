"""Log of a training: a table of epochs, panels, a GIF of them, and TensorBoard if asked for."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from wsi_stain.core.errors import ConfigError
from wsi_stain.core.journal import atomic_write
from wsi_stain.pix2pix.generator import Generator
from wsi_stain.stain.template import Template
from wsi_stain.training.simulated_labs import HeldOut
from wsi_stain.training.validation_baselines import mean_scores

_CHUNK = 8
_FILM_WIDTH = 640
_FRAME_MS = 600


def to_rgb(y_BCHW: Tensor) -> NDArray[np.uint8]:
    """Convert generated values in [-1, 1] to pixels, (B, H, W, 3)."""
    pixels = ((y_BCHW.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.movedim(1, -1).cpu().numpy())


def colour_templates(generator: Generator, templates: Sequence[Tensor], autocast: torch.autocast) -> NDArray[np.uint8]:
    """Colour templates, (H, W, C) each, with a generator in eval mode: (B, H, W, 3)."""
    parts = []
    with torch.inference_mode(), autocast:
        for start in range(0, len(templates), _CHUNK):
            x_BCHW = torch.stack(list(templates[start : start + _CHUNK])).movedim(-1, 1)
            parts.append(to_rgb(generator(x_BCHW)))
    return np.concatenate(parts)


def score_generator(
    generator: Generator, tiles: Sequence[HeldOut], template: Template, autocast: torch.autocast
) -> dict[str, float]:
    """Measure mean scores against the slide's own pixels.

    Returns:
        For `clean` (the slide as it is) and `perturbed` (as another laboratory has it): PSNR in dB, SSIM of luminance,
        CIEDE2000. Empty where there are no tiles.
    """
    if not tiles:
        return {}
    targets = [tile.pixels.cpu().numpy() for tile in tiles]
    clean = colour_templates(generator, [tile.own.template(tile.pixels, template) for tile in tiles], autocast)
    perturbed = colour_templates(generator, [tile.foreign.template(tile.pixels, template) for tile in tiles], autocast)
    return mean_scores("clean", list(clean), targets) | mean_scores("perturbed", list(perturbed), targets)


def draw_panel(
    generator: Generator, tiles: Sequence[HeldOut], template: Template, autocast: torch.autocast
) -> NDArray[np.uint8]:
    """Draw one row a tile, as another laboratory shows it: template (hematoxylin, if two stains), generated, target."""
    templates = [tile.foreign.template(tile.pixels, template) for tile in tiles]
    pictures = colour_templates(generator, templates, autocast)
    cells: list[Tensor] = []
    for lab_template, tile, picture in zip(templates, tiles, pictures, strict=True):
        gray = ((1 - lab_template[..., 0]) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()
        cells += [gray.expand(3, -1, -1), torch.from_numpy(picture).movedim(-1, 0), tile.pixels.cpu().movedim(-1, 0)]
    grid = make_grid(cells, nrow=3, padding=4, pad_value=255)
    whole: NDArray[np.uint8] = grid.movedim(0, -1).numpy()
    return whole


def write_panel(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a panel, (h, w, 3), as PNG."""
    atomic_write(path, lambda file: Image.fromarray(picture).save(file, "PNG"))


def write_epochs_gif(folder: Path) -> None:
    """Put the panels of all epochs, `epoch_*.png`, one after the other into `epochs.gif`."""
    frames = []
    for path in sorted(folder.glob("epoch_*.png")):
        with Image.open(path) as picture:
            width = min(picture.width, _FILM_WIDTH)
            frames.append(picture.convert("RGB").resize((width, round(picture.height * width / picture.width))))
    if frames:
        options = {"save_all": True, "append_images": frames[1:], "duration": _FRAME_MS, "loop": 0}
        atomic_write(folder / "epochs.gif", lambda file: frames[0].save(file, "GIF", **options))


def write_metrics(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write the table of epochs, whole, so that it is never torn."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(path, text.getvalue().encode())


class TensorBoardLog:
    """Scalars and panels for TensorBoard, or nothing.

    Args:
        folder: Where event files go; None writes none.
        step: Where a training is taken up; what an earlier try said of later steps is dropped.

    Raises:
        ConfigError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path | None, step: int) -> None:
        self._writer: Any = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "training.tensorboard is set and TensorBoard is not installed", "pip install 'wsi-stain[tensorboard]'"
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add values by name at a step."""
        if self._writer:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def picture(self, step: int, pixels: NDArray[np.uint8]) -> None:
        """Add a panel, (h, w, 3), at a step."""
        if self._writer:
            self._writer.add_image("template | generated | target", pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        if self._writer:
            self._writer.close()
