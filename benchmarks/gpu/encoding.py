"""Part that says who shall encode: JPEG and coarser levels on the GPU beside the same on the CPU's cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
from results import Results
from speed import kept_of, time_call
from subjects import Setup
from torch import Tensor

from wsi_stain.core.arrays import RgbImage, RgbTiles
from wsi_stain.core.geometry import block_region
from wsi_stain.formats.block_file import LEVELS, block_tiles, encode_jpeg, halve

_QUALITY = 90
_DQT, _SOS, _FRAMES = 0xDB, 0xDA, {0xC0, 0xC1, 0xC2}


@dataclass(frozen=True)
class JpegHeader:
    """What a JPEG stream says of its coding (ITU-T T.81, annex B).

    Attributes:
        sampling: Of each component how often it is sampled along x and along y; all (1, 1) is 4:4:4.
        tables: Its quantization tables, 64 values each, in zigzag order, by their number.
    """

    sampling: tuple[tuple[int, int], ...]
    tables: dict[int, tuple[int, ...]]


def read_header(stream: bytes) -> JpegHeader:
    """Read a JPEG's markers up to its first scan."""
    sampling: tuple[tuple[int, int], ...] = ()
    at, marker, tables = 2, 0, dict[int, tuple[int, ...]]()
    while marker != _SOS:
        marker, length = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4], "big")
        segment = stream[at + 4 : at + 2 + length]
        if marker in _FRAMES:
            sampling = tuple((factors >> 4, factors & 15) for factors in segment[7::3])
        while marker == _DQT and segment:
            wide = 1 + (segment[0] >> 4)
            values = np.frombuffer(segment[1 : 1 + 64 * wide], ">u1" if wide == 1 else ">u2")
            tables[segment[0] & 15] = tuple(values.tolist())
            segment = segment[1 + 64 * wide :]
        at += 2 + length
    return JpegHeader(sampling, tables)


def encoding(setup: Setup, results: Results) -> None:
    """JPEG and coarser levels of the block with most tissue, on the GPU and on all cores."""
    slide = setup.open_slide(setup.slide)
    block = max(slide.grid.blocks(), key=lambda each: kept_of(slide, each).sum())
    pixels = slide.read(block_region(block, slide.size))
    tiles = np.stack(list(block_tiles(pixels, kept_of(slide, block)).values()))
    try:
        compare_encoders(setup, tiles, results)
    except (ImportError, AttributeError, RuntimeError) as error:
        results.add("encode on the GPU", f"not to be had here: {str(error).splitlines()[0]}")
    side = 2**LEVELS
    compare_halving(setup, pixels[: len(pixels) // side * side, : pixels.shape[1] // side * side], results)


def compare_encoders(setup: Setup, tiles_NHWC: RgbTiles, results: Results) -> None:
    """Speed, bytes, headers and pixels of torchvision's encoder, nvJPEG on a GPU, beside those of the block files'."""
    from torchvision.io import encode_jpeg as encode_by_torchvision

    there, cores = torch.from_numpy(tiles_NHWC).to(setup.device), os.cpu_count() or 1
    megapixels = tiles_NHWC[..., 0].size / 1e6

    def on_device() -> list[bytes]:
        encoded = encode_by_torchvision(list(there.permute(0, 3, 1, 2).contiguous().unbind()), _QUALITY)
        lengths, joined = [len(each) for each in encoded], torch.cat(encoded).cpu().numpy().tobytes()
        ends = np.cumsum(lengths).tolist()
        return [joined[end - length : end] for end, length in zip(ends, lengths, strict=True)]

    with ThreadPoolExecutor(cores) as pool:
        own = list(pool.map(lambda tile: encode_jpeg(tile, _QUALITY), tiles_NHWC))
        by_cpu = measure_speed(
            setup, lambda: list(pool.map(lambda tile: encode_jpeg(tile, _QUALITY), tiles_NHWC)), megapixels
        )
    results.add(f"encode on the CPU, {cores} cores", f"{by_cpu:.0f} Mpx/s")
    first = on_device()
    by_gpu, size = measure_speed(setup, on_device, megapixels), sum(map(len, first)) / sum(map(len, own))
    results.add("encode by torchvision, bytes brought back", f"{by_gpu:.0f} Mpx/s; {size:.2f} times the CPU's bytes")
    again = on_device()
    results.add("torchvision's bytes, twice", "same" if again == first else "unlike", "the same", again == first)
    describe_streams(tiles_NHWC, first, own, results)
    name_winner("encoding", by_gpu, by_cpu, results)


def describe_streams(tiles: RgbTiles, made: Sequence[bytes], own: Sequence[bytes], results: Results) -> None:
    """Compare headers, and decoded pixels with each other and with the source."""
    header, usual = read_header(made[0]), read_header(own[0])
    tables = "the same" if header.tables == usual.tables else "other"
    results.details["headers"] = {"torchvision": str(header), "block files": str(usual)}
    found = f"sampling {header.sampling} (block files {usual.sampling}), {tables} quantization tables"
    results.add("torchvision's headers", found)
    ours, theirs = (
        np.stack([simplejpeg.decode_jpeg(stream, "RGB") for stream in streams]).astype(np.int16)
        for streams in (own, made)
    )
    apart = np.abs(ours - theirs)
    noise = [decibels(decoded - tiles.astype(np.int16)) for decoded in (theirs, ours)]
    distance = f"apart by {apart.mean():.3f} levels, at most {apart.max()}"
    results.add("pixels of both, decoded", f"{distance}; PSNR to the source {noise[0]:.1f} and {noise[1]:.1f} dB")


def decibels(error: np.ndarray[tuple[int, ...], np.dtype[np.int16]]) -> float:
    """PSNR of an error of 8-bit pixels."""
    return float(10 * np.log10(255**2 / max(float(np.mean(error.astype(np.float64) ** 2)), 1e-9)))


def compare_halving(setup: Setup, pixels: RgbImage, results: Results) -> None:
    """Levels 1 to 4 of a block: on the GPU, brought back; and by each core of the CPU for a block of its own."""
    there, cores, megapixels = torch.from_numpy(pixels.copy()).to(setup.device), os.cpu_count() or 1, pixels.size / 3e6

    def on_cpu() -> list[RgbImage]:
        levels = [pixels]
        for _coarser in range(LEVELS):
            levels.append(halve(levels[-1]))
        return levels[1:]

    def on_device() -> list[RgbImage]:
        levels = [there]
        for _coarser in range(LEVELS):
            levels.append(halve_tensor(levels[-1]))
        return [level.cpu().numpy() for level in levels[1:]]

    same = all(np.array_equal(one, other) for one, other in zip(on_device(), on_cpu(), strict=True))
    results.add("coarser levels on the GPU", "the CPU's bytes" if same else "unlike", "the same bytes", same)
    with ThreadPoolExecutor(cores) as pool:

        def on_all_cores() -> list[list[RgbImage]]:
            return list(pool.map(lambda _core: on_cpu(), range(cores)))

        by_cpu = measure_speed(setup, on_all_cores, cores * megapixels)
    by_gpu = measure_speed(setup, on_device, megapixels)
    results.add(f"coarser levels on the CPU, {cores} cores", f"{by_cpu:.0f} Mpx/s of level 0")
    results.add("coarser levels on the GPU, brought back", f"{by_gpu:.0f} Mpx/s of level 0")
    name_winner("halving", by_gpu, by_cpu, results)


def halve_tensor(pixels_HWC: Tensor) -> Tensor:
    """Halve an image of even sides as `halve` does."""
    rows = pixels_HWC[0::2].short() + pixels_HWC[1::2]
    return ((rows[:, 0::2] + rows[:, 1::2] + 2) >> 2).to(torch.uint8)


def measure_speed(setup: Setup, call: Callable[[], object], megapixels: float) -> float:
    """Mpx/s of a call, over as many calls as take long enough to tell; the first is not counted."""
    call()
    rounds, seconds = 1, time_call(call, setup.device)
    while seconds < (0.02 if setup.is_dry else 0.4):
        rounds *= 2
        seconds = time_call(lambda count=rounds: [call() for _ in range(count)], setup.device)
    return rounds * megapixels / seconds


def name_winner(what: str, by_gpu: float, by_cpu: float, results: Results) -> None:
    """Say who is faster, and how many times."""
    winner, times = ("the GPU", by_gpu / by_cpu) if by_gpu > by_cpu else ("the CPU's cores", by_cpu / by_gpu)
    results.add(f"{what} is faster on", f"{winner}, {times:.1f} times")
