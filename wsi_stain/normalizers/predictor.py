"""A checkpoint's generator at work: fixed shapes, nothing stochastic, and what to do about values that are no numbers.

On a GPU a pass is begun and fetched later: copies from and to pinned memory and the computation are queued on the
thread's stream, one of two. So the passes of one thread follow each other, and those of several threads overlap: one is
copied while another computes (`normalize.threads`, `executor.gpu_tasks`). The network is put on its device by the first
pass: a process that needs only what is known of it, such as its halo, opens no context on a GPU. Writes no files.

A generator whose pixels are coarser than the slide's is shown windows that are shrunk so much, and what it generates
has its own resolution.

Shape legend: B batch, H rows, W columns, C channels; h, w what remains of H, W without the halo, in the generator's
pixels.
"""

from __future__ import annotations

import copy
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_stain.core.arrays import RgbImage
from wsi_stain.core.errors import CheckpointError
from wsi_stain.core.geometry import ceil_div, round_up
from wsi_stain.pix2pix.checkpoint import Checkpoint
from wsi_stain.pix2pix.generator import aligned_halo, receptive_halo
from wsi_stain.pix2pix.gpu import copy_to_pinned, record_event, stack_arrays
from wsi_stain.pix2pix.inference_generator import InferenceGenerator
from wsi_stain.pix2pix.precision import Precision, compute_dtype
from wsi_stain.pix2pix.resample import round_pixels, shrink_pixels
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.stain.template import TemplateTables, apply_template
from wsi_stain.store import TiledSlide
from wsi_stain.store.artifact import NormalizationCounts

Postprocess = Callable[[Tensor, Tensor, Tensor], Tensor]
"""What becomes of a pass's pixels, (B, ., ., 3) uint8: of its windows, (B, H, W, 3) uint8; the same as the generator
sees them, in pixels as wide as `GeneratorPredictor.shrink` of them; and what was generated, (B, h, w, 3) float: as many
of these as the windows have without the crop."""

Network = Callable[[Tensor, int], Tensor]
"""A generator on its device: of a template, and what to crop."""

_CUDNN_SETTINGS = threading.Lock()
"""The settings of cuDNN are global: threads set them one at a time."""

_AHEAD = 2
"""Passes over single windows that may be under way, or done and not fetched."""

_GPU_BATCH, _CPU_BATCH = 8, 13
"""Windows of one such pass. On a CPU 13 of 256 px take 0.6 of the time that they take one by one, and no more memory
than one of 1024 px with its halo; more are hardly faster."""

PendingBatch = Callable[[NormalizationCounts], RgbImage]
"""A pass under way. A call waits for its end and gives (B, h, w, 3) RGB, or raises CheckpointError."""


class GeneratorPredictor:
    """A checkpoint's generator, made ready for one device: template, network, back to RGB. Threads may share it.

    Args:
        checkpoint: Whose generator; it is copied, not changed.
        device: As torch names it.
        precision: `auto` takes bfloat16 where the device computes in it natively.
        compiled: Whether torch.compile translates the generator, once for each shape of window.

    Attributes:
        template: What is made of a window's pixels for it.
        stain_passes: How many times it refines a slide's stain statistics.
        shrink: How many of a window's pixels are as wide as one of the generator's.
        step: Windows have sides that are multiples of this, px.
        halo: What a window must show on each side of the part that is wanted, px; a multiple of `step` and of 32.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: str = "cpu", precision: Precision = "auto", compiled: bool = False
    ) -> None:
        config, self.shrink = checkpoint.contract.generator, checkpoint.contract.shrink
        self._downs = config.downs
        self.stain_passes = checkpoint.contract.stain_passes
        self.step = self.shrink * 2**config.downs
        self.halo = round_up(self.shrink * receptive_halo(config.downs), max(32, self.step))
        self._check_fits = checkpoint.contract.check_fits
        self.template = checkpoint.contract.template
        self._device, self._compiled = torch.device(device), compiled
        self._dtype = compute_dtype(precision, self._device)
        self._exact = InferenceGenerator(checkpoint.generator)
        self._loading = threading.Lock()
        self._loaded: Network | None = None
        self._streams: list[torch.cuda.Stream] = []
        self._turns, self._own = itertools.count(), threading.local()
        self._tables = lru_cache(256)(self._upload_tables)

    def check_fits(self, slide: TiledSlide) -> None:
        """Refuse a slide whose resolution the generator does not know, with CheckpointError."""
        self._check_fits(slide.mpp)

    def aligned_halo(self, beyond: int) -> int:
        """Return what a window must show around a core on multiples of `step`, px: a multiple of it and of 32.

        Args:
            beyond: How far outside the core results are wanted, px; these come out exactly.
        """
        exact = self.shrink * aligned_halo(self._downs, ceil_div(beyond, self.shrink))
        return round_up(exact, max(32, self.step))

    def upload(self, values: NDArray[np.float32]) -> Tensor:
        """Copy a small array to the device. It is all there when this returns, for whatever stream."""
        return torch.from_numpy(np.array(values)).to(self._device)

    def predict(self, window: RgbImage, statistics: StainStatistics) -> Tensor:
        """Generate the inner part of a window, without its halo.

        Args:
            window: (H, W, 3) RGB of the slide, sides multiples of `step`.
            statistics: Of the slide.

        Returns:
            (h, w, 3) float32 RGB, 0 to 255, on the device.

        Raises:
            CheckpointError: The generator gave a value that is no number, in float32 as well.
        """
        windows_BHWC = torch.from_numpy(np.array(window)[None]).to(self._device)
        seen_BHWC = shrink_pixels(windows_BHWC, self.shrink)
        generated_BHWC, is_finite = self._generate(seen_BHWC, statistics, self.halo)
        if not bool(is_finite):
            generated_BHWC = self._retry_in_float32(seen_BHWC, statistics, self.halo)
        return generated_BHWC[0]

    def predict_all(
        self, windows: Iterable[RgbImage], statistics: StainStatistics, crop: int
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield of windows of one shape, in order, the inner part as the generator sees it and what it makes of that.

        They are (2, h, w, 3), in the host's memory. Several go through the network at once. On a GPU passes are begun
        ahead, and the last is filled up: the shape is always the same.

        Args:
            windows: As `predict` takes them; they are read as they are wanted.
            statistics: Of the slide.
            crop: As `start` takes it.

        Raises:
            CheckpointError: The generator gave a value that is no number, in float32 as well.
        """
        on_gpu = self._device.type == "cuda"
        size = _GPU_BATCH if on_gpu else _CPU_BATCH
        pending: deque[tuple[int, PendingBatch]] = deque()
        source = iter(windows)
        while batch := list(itertools.islice(source, size)):
            filling = [np.zeros_like(batch[0])] * (size - len(batch)) if on_gpu else []
            pending.append((len(batch), self.start(batch + filling, statistics, crop, _join_seen)))
            if len(pending) == _AHEAD:
                yield from _fetch_first(pending)
        while pending:
            yield from _fetch_first(pending)

    def start(
        self, windows: Sequence[RgbImage], statistics: StainStatistics, crop: int, postprocess: Postprocess
    ) -> PendingBatch:
        """Begin a pass. On a CPU it ends at once.

        Args:
            windows: B times (H, W, 3) RGB of the slide, sides multiples of `step`.
            statistics: Of the slide.
            crop: What to leave away on each side, px, a multiple of `shrink`; with `halo` the rest is exact.
            postprocess: Makes the pixels.

        Returns:
            What fetches the result.
        """
        host_BHWC = stack_arrays(windows, pin=self._device.type == "cuda")
        if self._device.type != "cuda":
            result_BHWC, is_finite = self._predict(host_BHWC, statistics, crop, postprocess)
            wait = _no_wait
        else:
            stream = self._stream()
            with torch.cuda.stream(stream):
                device_BHWC = host_BHWC.to(self._device, non_blocking=True)
                result_BHWC, is_finite = map(copy_to_pinned, self._predict(device_BHWC, statistics, crop, postprocess))
                wait = record_event(stream).synchronize

        def fetch(tally: NormalizationCounts) -> RgbImage:
            wait()
            if bool(is_finite):
                return result_BHWC.numpy()
            tally.retried += 1
            again_BHWC = host_BHWC.to(self._device)
            seen_BHWC = shrink_pixels(again_BHWC, self.shrink)
            generated_BHWC = self._retry_in_float32(seen_BHWC, statistics, crop)
            with torch.inference_mode():
                return postprocess(again_BHWC, seen_BHWC, generated_BHWC).cpu().numpy()

        return fetch

    def _predict(
        self, windows_BHWC: Tensor, statistics: StainStatistics, crop: int, postprocess: Postprocess
    ) -> tuple[Tensor, Tensor]:
        seen_BHWC = shrink_pixels(windows_BHWC, self.shrink)
        generated_BHWC, is_finite = self._generate(seen_BHWC, statistics, crop)
        with torch.inference_mode():
            return postprocess(windows_BHWC, seen_BHWC, generated_BHWC), is_finite

    def _retry_in_float32(self, seen_BHWC: Tensor, statistics: StainStatistics, crop: int) -> Tensor:
        """Generate in float32; CheckpointError where that gives no numbers either."""
        if self._dtype != torch.float32:
            exact = self._to_device(self._exact, torch.float32)
            generated_BHWC, is_finite = self._generate(seen_BHWC, statistics, crop, exact, torch.float32)
            if bool(is_finite):
                return generated_BHWC
        raise CheckpointError(
            "The generator gave values that are no numbers (NaN or infinite), in float32 as well",
            "Train again, and check the losses: they should have stayed finite",
        )

    def _generate(
        self,
        seen_BHWC: Tensor,
        statistics: StainStatistics,
        crop: int,
        generator: Network | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (B, h, w, 3) float32, 0 to 255, and whether all of it are numbers, on the device."""
        generator, crop = generator or self._network(), crop // self.shrink
        template_BHWC = self._make_template(seen_BHWC, statistics)
        x_BCHW = template_BHWC.permute(0, 3, 1, 2).to(dtype or self._dtype, memory_format=torch.channels_last)
        deterministic = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with torch.inference_mode():
            if self._device.type == "cuda":
                with _CUDNN_SETTINGS, deterministic:
                    y_BCHW = generator(x_BCHW, crop)
            else:
                y_BCHW = generator(x_BCHW, crop)
            inner_BHWC = y_BCHW.permute(0, 2, 3, 1).float()
            is_finite = torch.isfinite(inner_BHWC.sum())  # one value that is no number makes the sum none
            return inner_BHWC.mul_(2).sigmoid_().mul_(255), is_finite  # 127.5 (1 + tanh), in half of the time

    def _make_template(self, seen_BHWC: Tensor, statistics: StainStatistics) -> Tensor:
        """Make the generator's input, (B, H, W, C) float32, on the device; on a CPU numpy is the faster."""
        if self._device.type == "cpu":
            return torch.from_numpy(np.asarray(apply_template(seen_BHWC.numpy(), statistics, self.template)))
        template_BHWC: Tensor = self._tables(statistics).look_up(seen_BHWC)
        return template_BHWC

    def _upload_tables(self, statistics: StainStatistics) -> TemplateTables:
        """Copy a slide's tables to the GPU, once."""
        tables = TemplateTables.of([statistics], self.template)
        return TemplateTables(self.upload(tables.sums), tables.bend, tables.knee)

    def _network(self) -> Network:
        """Return the generator on its device; the first to ask puts it there, and the streams begin after that."""
        with self._loading:
            if self._loaded is None:
                self._loaded = self._load()
        return self._loaded

    def _load(self) -> Network:
        is_exact = self._dtype == torch.float32
        generator = self._to_device(self._exact if is_exact else copy.deepcopy(self._exact), self._dtype)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        compiled: Network = torch.compile(generator, dynamic=False) if self._compiled else generator
        return compiled

    def _to_device(self, generator: InferenceGenerator, dtype: torch.dtype) -> InferenceGenerator:
        return generator.to(self._device, dtype).to(memory_format=torch.channels_last)

    def _stream(self) -> torch.cuda.Stream:
        """Return this thread's stream: threads take two by turns."""
        if not hasattr(self._own, "stream"):
            with self._loading:
                self._streams = self._streams or [torch.cuda.Stream(self._device) for _ in range(2)]  # type: ignore[no-untyped-call]
                self._own.stream = self._streams[next(self._turns) % 2]
        stream: torch.cuda.Stream = self._own.stream
        return stream


def _join_seen(windows_BHWC: Tensor, seen_BHWC: Tensor, generated_BhwC: Tensor) -> Tensor:
    cut = (seen_BHWC.shape[1] - generated_BhwC.shape[1]) // 2
    inner = slice(cut, seen_BHWC.shape[1] - cut), slice(cut, seen_BHWC.shape[2] - cut)
    return torch.stack([seen_BHWC[:, *inner], round_pixels(generated_BhwC)], dim=1)


def _no_wait() -> None:
    pass


def _fetch_first(pending: deque[tuple[int, PendingBatch]]) -> Iterator[NDArray[np.uint8]]:
    count, fetch = pending.popleft()
    yield from fetch(NormalizationCounts())[:count]
