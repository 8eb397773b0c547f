"""The generator at work on a slide's pixels: fixed shapes, exact halo, nothing stochastic. Knows no files.

        halo      core       halo
    |---------|-----------|---------|     one pass: a square window of fixed side, of which the core is kept
              |-----------|-----------|   cores stand side by side from the block's origin

A core's pixels see nothing beyond the window: the halo is at least the receptive field's reach, core and halo are
multiples of the generator's step (2**downs), and BatchNorm uses frozen statistics. So the output does not depend on
where a slide is cut.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wsi_stain import guided
from wsi_stain.artifact import STATISTICS, Artifact, packed, statistics_of
from wsi_stain.checkpoint import Checkpoint
from wsi_stain.errors import CheckpointError
from wsi_stain.geometry import TILE, ceil_div
from wsi_stain.pix2pix.generator import Generator, receptive_halo
from wsi_stain.precision import Precision, compute_dtype
from wsi_stain.reader import BlockReader
from wsi_stain.stain import StainStatistics, apply_template

Pixels = NDArray[np.uint8]
Fit = Callable[[BlockReader, StainStatistics], Artifact]

_GLASS = 255
_EVEN = 100.0
"""Variance of a window, in squared grey levels, that still counts as even; the scanner's noise has about 10."""


class Recolourer:
    """A checkpoint's generator, made ready for one device: template, network, back to RGB.

    Args:
        checkpoint: Whose generator; it is copied, not changed.
        device: As torch names it.
        precision: `auto` takes bfloat16 where the device computes in it natively.

    Attributes:
        step: Windows have sides that are multiples of this, px.
        halo: What a window must show on each side of the part that is wanted, px; a multiple of `step` and of 32.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu", precision: Precision = "auto") -> None:
        config = checkpoint.contract.generator
        self.step = 2**config.downs
        self.halo = _rounded_up(receptive_halo(config.downs), max(32, self.step))
        self._check_fits = checkpoint.check_fits
        self._template = checkpoint.contract.template
        self._device = torch.device(device)
        self._dtype = compute_dtype(precision, self._device)
        generator = folded(checkpoint.generator).to(self._device, self._dtype)
        self._generator = generator.to(memory_format=torch.channels_last)

    def check_fits(self, slide: BlockReader) -> None:
        """Refuse a slide whose resolution the generator does not know, with CheckpointError."""
        self._check_fits(slide.mpp)

    def recolour(self, window: Pixels, statistics: StainStatistics) -> Tensor:
        """Generate the inner part of a window.

        Args:
            window: (h + 2 halo, w + 2 halo, 3) RGB of the slide, sides multiples of `step`.
            statistics: Of the slide.

        Returns:
            (h, w, 3) float32 RGB, 0 to 255, on the device.

        Raises:
            CheckpointError: The generator gave a value that is no number.
        """
        template_HWC = self._make_template(window, statistics)
        x_BCHW = template_HWC.permute(2, 0, 1)[None].to(self._dtype, memory_format=torch.channels_last)
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            y_CHW: Tensor = self._generator(x_BCHW)[0]
        inner_HWC = y_CHW[:, self.halo : -self.halo, self.halo : -self.halo].permute(1, 2, 0).float()
        if not bool(torch.isfinite(inner_HWC.sum())):  # one value that is no number makes the sum none
            raise CheckpointError(
                "The generator gave values that are no numbers (NaN or infinite)",
                "Train again, or set output.precision to float32 if the training itself went well",
            )
        return (inner_HWC + 1) * 127.5

    def _make_template(self, window: Pixels, statistics: StainStatistics) -> Tensor:
        """The generator's input, (H, W, C) float32, on the device; on a CPU numpy is the faster."""
        if self._device.type == "cpu":
            return torch.from_numpy(np.asarray(apply_template(window, statistics, self._template)))
        source_HWC = torch.from_numpy(np.array(window)).to(self._device)
        template_HWC: Tensor = apply_template(source_HWC, statistics, self._template)
        return template_HWC

    def recolour_rounded(self, window: Pixels, statistics: StainStatistics) -> Pixels:
        """Like `recolour`, as (h, w, 3) uint8 in the memory of the host."""
        return to_pixels(self.recolour(window, statistics))


class GeneratorNormalizer:
    """Generated pixels as they are, over every tissue tile.

    Args:
        recolourer: The generator.
        white: The background where nothing is generated, RGB.
        core: Side of the square that one pass yields, px; rounded up to the generator's step.
        fit: What finds the slide's colour table, as `LutNormalizer.prepare` does: what the generator does beyond it is
            the hallucination map. Without it there is none.
    """

    def __init__(
        self, recolourer: Recolourer, white: tuple[int, int, int], core: int = 1024, fit: Fit | None = None
    ) -> None:
        self._recolourer = recolourer
        self._core = _rounded_up(core, recolourer.step)
        self._fit = fit
        self.white = white
        self.halo = recolourer.halo

    def prepare(self, slide: BlockReader, statistics: StainStatistics) -> Artifact:
        """The slide's stain statistics, and its table; CheckpointError where the generator does not fit the slide."""
        self._recolourer.check_fits(slide)
        return {STATISTICS: packed(statistics), **(self._fit(slide, statistics) if self._fit else {})}

    def apply(self, pixels: Pixels, needed: NDArray[np.bool_], artifact: Artifact) -> Pixels:
        """Generate the cores in which a needed tile lies; the rest is white.

        Memory bound: the result, and one window's activations.
        """
        statistics, halo = statistics_of(artifact), self.halo
        height, width = pixels.shape[0] - 2 * halo, pixels.shape[1] - 2 * halo
        result = np.empty((height, width, 3), np.uint8)
        result[:] = self.white
        for top, left in self._cores(needed):
            inner = result[top : top + self._core, left : left + self._core]
            window = self._window(pixels, top, left)
            inner[:] = self._made(window, statistics)[: inner.shape[0], : inner.shape[1]]
        return result

    def _made(self, window: Pixels, statistics: StainStatistics) -> Pixels:
        """The core of a window, (core, core, 3)."""
        return self._recolourer.recolour_rounded(window, statistics)

    def _cores(self, needed: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
        """(top, left), px, of the cores over at least one needed tile."""
        rows, cols = (ceil_div(count * TILE, self._core) for count in needed.shape)
        for row in range(rows):
            for col in range(cols):
                tiles = [slice(i * self._core // TILE, ceil_div((i + 1) * self._core, TILE)) for i in (row, col)]
                if needed[tiles[0], tiles[1]].any():
                    yield row * self._core, col * self._core

    def _window(self, pixels: Pixels, top: int, left: int) -> Pixels:
        """A core with its halo, always of one shape; glass where the pixels end."""
        side = self._core + 2 * self.halo
        found = pixels[top : top + side, left : left + side]
        if found.shape[:2] == (side, side):
            return found
        window = np.full((side, side, 3), _GLASS, np.uint8)
        window[: found.shape[0], : found.shape[1]] = found
        return window


class GuardNormalizer(GeneratorNormalizer):
    """The source with the smooth part of the generator's change: colour moves, detail stays the source's.

    Args:
        recolourer: The generator.
        white: The background where nothing is generated, RGB.
        core: Side of the square that one pass yields, px; rounded up to the generator's step.
        radius: Half the side of the windows in which the change is taken for smooth, px; see `guided`.
        fit: As for `GeneratorNormalizer`.
    """

    def __init__(
        self, recolourer: Recolourer, white: tuple[int, int, int], core: int, radius: int, fit: Fit | None = None
    ) -> None:
        super().__init__(recolourer, white, core, fit)
        self._radius = _rounded_up(radius, guided.STEP)
        self._margin = _rounded_up(guided.reach(self._radius), max(32, recolourer.step))
        self.halo = recolourer.halo + self._margin

    def _made(self, window: Pixels, statistics: StainStatistics) -> Pixels:
        generated_HWC = self._recolourer.recolour(window, statistics)
        halo, margin = self._recolourer.halo, self._margin
        source_HWC = torch.from_numpy(np.array(window[halo:-halo, halo:-halo])).to(generated_HWC)
        source_BCHW, changed_BCHW = (image.permute(2, 0, 1)[None] for image in (source_HWC, generated_HWC))
        kept_CHW = guided.guided(source_BCHW, changed_BCHW, self._radius, _EVEN)[0, :, margin:-margin, margin:-margin]
        return to_pixels(kept_CHW.permute(1, 2, 0))


def to_pixels(image_HWC: Tensor) -> Pixels:
    """Float values, 0 to 255, as (H, W, 3) uint8 in the memory of the host."""
    return np.ascontiguousarray((image_HWC + 0.5).clamp_(0, 255).to(torch.uint8).cpu().numpy())


def folded(generator: Generator) -> Generator:
    """A copy of a generator in eval mode with every BatchNorm folded into the convolution before it."""
    generator = copy.deepcopy(generator).eval().requires_grad_(False)
    for blocks in (generator.down, generator.up):
        for place, block in enumerate(blocks):
            assert isinstance(block, nn.Sequential)
            blocks[place] = _folded_block(block)
    return generator


def _folded_block(block: nn.Sequential) -> nn.Sequential:
    layers: list[nn.Module] = []
    for layer in block:
        if isinstance(layer, nn.BatchNorm2d):
            before = layers.pop()
            assert isinstance(before, nn.Conv2d | nn.ConvTranspose2d)
            layer = fuse_conv_bn_eval(before, layer, transpose=isinstance(before, nn.ConvTranspose2d))
        if not isinstance(layer, nn.Dropout):
            layers.append(layer)
    return nn.Sequential(*layers)


def _rounded_up(length: int, step: int) -> int:
    return ceil_div(length, step) * step
