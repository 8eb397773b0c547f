"""A slide that is begun again, in a smaller shape or after a kill: what is kept, what is told, and the same bytes."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.support.commands import Run
from tests.support.files_below import digests
from tests.support.forked import fork_command
from tests.support.identity import IdentityNormalizer
from tests.support.made_checkpoint import write_untrained
from tests.support.made_run import odd_slide
from wsi_stain.normalizers.load import FACTORIES
from wsi_stain.pix2pix.inference_generator import InferenceGenerator
from wsi_stain.store import TileStore


@dataclass(frozen=True)
class StoredRun:
    """A store with one slide of four blocks, and a checkpoint for it."""

    store: Path
    checkpoint: Path


@pytest.fixture(scope="module")
def stored_run(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    folder = tmp_path_factory.mktemp("restarts")
    odd_slide(folder / "odd.svs")
    ended = fork_command("tile", folder / "odd.svs", "-s", folder / "tiles.zarr", "-j", 0).wait()
    assert ended.code == 0, ended.err
    return StoredRun(folder / "tiles.zarr", write_untrained(folder / "untrained.safetensors"))


def command(stored_run: StoredRun, out: Path, config: Path) -> list[str]:
    options = ("--checkpoint", stored_run.checkpoint, "-o", out, "-c", config, "-j", 0)
    return [str(word) for word in ("normalize", stored_run.store, *options)]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("normalize: {mode: generator, stride_px: 1024}")
    return path


class SmallDevice(IdentityNormalizer):
    """Changes nothing, on a device whose memory holds squares of 256 px."""

    tries = 0

    def __init__(self, stride_px: int) -> None:
        super().__init__((245, 243, 246))
        self._core = stride_px

    def apply(self, *arguments: Any, **named: Any) -> NDArray[np.uint8]:
        SmallDevice.tries += 1
        if self._core > 256:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nAnd much more")
        return super().apply(*arguments, **named)


@pytest.fixture
def small_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(FACTORIES, "generator", lambda checkpoint, white, config, device: SmallDevice(config.stride_px))
    SmallDevice.tries = 0
    return


@pytest.mark.usefixtures("small_device")
def test_without_memory_a_slide_is_begun_again_in_a_smaller_shape_that_is_remembered(
    stored_run: StoredRun, config: Path, wsi_stain: Run, tmp_path: Path
) -> None:
    out, asked = tmp_path / "out", tmp_path / "asked"
    ended = wsi_stain(*command(stored_run, out, config))
    assert ended.code == 0
    assert [f"squares of {stride_px} px" in ended.out for stride_px in (1024, 512, 256, 128)] == [
        True,
        True,
        True,
        False,
    ]
    assert "CUDA out of memory. Tried to allocate 2.00 GiB" in ended.out
    assert "generated in squares of 256 px for want of memory" in (out / "summary.csv").read_text()
    made = digests(out / "slides")
    assert len(made) == 1

    SmallDevice.tries = 0
    assert wsi_stain(*command(stored_run, out, config)).code == 0
    assert SmallDevice.tries == 0, "what stands is kept"
    next((out / "slides").rglob("*.tif")).unlink()
    assert "begun again" not in wsi_stain(*command(stored_run, out, config)).out
    assert digests(out / "slides") == made

    config.write_text("normalize: {mode: generator, stride_px: 256}")
    assert wsi_stain(*command(stored_run, asked, config)).code == 0
    assert digests(asked / "slides") == made, "as if it had been asked for"


def test_where_no_shape_is_small_enough_the_slide_fails(
    stored_run: StoredRun, config: Path, wsi_stain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*arguments: object) -> IdentityNormalizer:
        return SmallDevice(1024)

    monkeypatch.setitem(FACTORIES, "generator", no_memory)
    ended = wsi_stain(*command(stored_run, tmp_path / "out", config))
    assert ended.code == 3
    said = " ".join(ended.out.split())
    assert "too little memory: CUDA out of memory. Tried to allocate 2.00 GiB, in the smallest squares" in said
    assert "device with more memory" in said


NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
]


class SmallMemory:
    """Makes of every generator one that computes, and then finds no memory, where a window is wider than 640 px.

    Attributes:
        wide: What it computed there, as weak references.
        held: How much of that was still held, at each window that is narrow enough.
    """

    def __init__(self, error: Exception) -> None:
        self.wide: list[weakref.ref[Tensor]] = []
        self.held: list[int] = []
        forward = InferenceGenerator.forward

        def narrow(generator: InferenceGenerator, x_BCHW: Tensor, crop: int = 0) -> Tensor:
            if x_BCHW.shape[-1] > 640:
                activations_BCHW = generator.down[0](x_BCHW)
                self.wide.append(weakref.ref(activations_BCHW))
                raise error.with_traceback(None)
            self.held.append(sum(reference() is not None for reference in self.wide))
            return forward(generator, x_BCHW, crop)

        self.forward = narrow


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Nothing goes but what nobody holds."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("threads", [1, 3])
def test_when_a_slide_is_begun_again_nothing_is_held_of_the_first_try(
    stored_run: StoredRun, config: Path, wsi_stain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    memory = SmallMemory(NO_MEMORY[0])
    monkeypatch.setattr(InferenceGenerator, "forward", memory.forward)
    config.write_text(f"normalize: {{mode: generator, stride_px: 512, threads: {threads}, lut_tiles: 10}}")
    assert wsi_stain(*command(stored_run, tmp_path / "out", config)).code == 0
    assert memory.wide
    assert not any(memory.held)


@pytest.mark.parametrize("error", NO_MEMORY[-1:], ids=str)
def test_a_store_is_begun_again_too_whoever_wanted_the_memory(
    stored_run: StoredRun,
    config: Path,
    wsi_stain: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    asked, out = tmp_path / "asked", tmp_path / "out"
    config.write_text("normalize: {mode: generator, stride_px: 256, lut_tiles: 10}")
    assert wsi_stain(*command(stored_run, asked, config), "--to", "store").code == 0
    monkeypatch.setattr(InferenceGenerator, "forward", SmallMemory(error).forward)
    config.write_text("normalize: {mode: generator, stride_px: 512, lut_tiles: 10}")
    assert wsi_stain(*command(stored_run, out, config), "--to", "store").code == 0
    assert "generated in squares of 256 px for want of memory" in (out / "summary.csv").read_text()
    expected, found = (TileStore(place / "tiles.zarr")["odd.svs"] for place in (asked, out))
    assert all(np.array_equal(found.read_tile(tile), expected.read_tile(tile)) for tile in found.tile_indices(0.0))


def test_a_generator_that_does_not_fit_into_memory_is_told(
    stored_run: StoredRun, config: Path, wsi_stain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*arguments: object) -> IdentityNormalizer:
        raise NO_MEMORY[0].with_traceback(None)

    monkeypatch.setitem(FACTORIES, "generator", too_large)
    ended = wsi_stain(*command(stored_run, tmp_path / "out", config))
    assert ended.code == 3
    said = " ".join(ended.out.split())
    assert "too little memory" in said and "in the smallest squares there are, of 256 px" in said


def test_a_broken_gpu_ends_a_run_of_one_process(
    stored_run: StoredRun, config: Path, wsi_stain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> Tensor:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered\nCUDA kernel errors might be")

    monkeypatch.setattr(InferenceGenerator, "forward", broken)
    ended = wsi_stain(*command(stored_run, tmp_path / "out", config))
    assert ended.code == 1
    assert "The GPU failed" in ended.err and "Run the same command again" in ended.err


def test_what_a_killed_run_finished_is_kept_and_told(
    stored_run: StoredRun, config: Path, wsi_stain: Run, tmp_path: Path
) -> None:
    config.write_text("normalize: {mode: generator, stride_px: 512, precision: float32}")
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert "blocks kept" not in wsi_stain(*command(stored_run, whole, config)).out
    assert fork_command(*command(stored_run, out, config), WSI_STAIN_FAILPOINT="before-rename:17").wait().code == -9
    kept = len([path for path in (out / "work").rglob("blocks/*.json") if json.loads(path.read_text())["product"]])
    assert 0 < kept < 4
    assert f"odd.svs: {kept} of 4 blocks kept" in wsi_stain(*command(stored_run, out, config)).out
    assert digests(out / "slides") == digests(whole / "slides")


def test_why_blocks_are_not_kept_is_told(stored_run: StoredRun, config: Path, wsi_stain: Run, tmp_path: Path) -> None:
    killed = fork_command(*command(stored_run, tmp_path / "out", config), WSI_STAIN_FAILPOINT="before-rename:17").wait()
    assert killed.code == -9
    config.write_text("normalize: {mode: generator, stride_px: 512}")
    said = wsi_stain(*command(stored_run, tmp_path / "out", config)).out
    assert "blocks made again: normalize.stride_px is 512, was 1024" in said
    assert "blocks kept" not in said
