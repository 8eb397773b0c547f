"""A block file gives back what went in, and damage never goes unnoticed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from wsi_stain.core.errors import OutputError
from wsi_stain.core.geometry import Size, grid_shape
from wsi_stain.formats.block_file import BlockFile, JpegConfig, encode_jpeg, halve, halve_kept, write_block

Pixels = NDArray[np.uint8]


def smooth(size: Size, seed: int = 0) -> Pixels:
    """A picture without fine detail, so that JPEG keeps it closely."""
    rng = np.random.default_rng(seed)
    x, y = np.linspace(0, 3, size.width), np.linspace(0, 2, size.height)
    waves = [np.sin(np.add.outer(y * rng.uniform(1, 3), x * rng.uniform(1, 3))) for _ in range(3)]
    return np.round(128 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def halve_slowly(pixels: Pixels) -> Pixels:
    height, width, _ = pixels.shape
    even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge").astype(int)
    total = even[0::2, 0::2] + even[1::2, 0::2] + even[0::2, 1::2] + even[1::2, 1::2]
    return ((total + 2) >> 2).astype(np.uint8)


def write(path: Path, size: Size, kept: NDArray[np.bool_] | None = None) -> Pixels:
    pixels = smooth(size)
    write_block(path, pixels, np.ones(grid_shape(size), bool) if kept is None else kept, JpegConfig())
    return pixels


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=41).map(lambda shape: (*shape, 3))))
@settings(deadline=None)
def test_halving_is_the_rounded_mean_with_replicated_edges(pixels: Pixels) -> None:
    np.testing.assert_array_equal(halve(pixels), halve_slowly(pixels))


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=16)))
def test_a_coarser_tile_is_kept_where_any_tile_below_it_is(kept: NDArray[np.bool_]) -> None:
    coarse = halve_kept(kept)
    assert coarse.shape == (-(-kept.shape[0] // 2), -(-kept.shape[1] // 2))
    for row, col in np.ndindex(*coarse.shape):
        assert coarse[row, col] == kept[2 * row : 2 * row + 2, 2 * col : 2 * col + 2].any()


@pytest.mark.parametrize(
    ("size", "shapes"),
    [
        (Size(4096, 4096), [(16, 16), (8, 8), (4, 4), (2, 2)]),
        (Size(1301, 515), [(3, 6), (2, 3), (1, 2), (1, 1)]),
        (Size(1, 257), [(2, 1), (1, 1), (1, 1), (1, 1)]),
    ],
    ids=["whole", "corner", "sliver"],
)
def test_levels_come_back(tmp_path: Path, size: Size, shapes: list[tuple[int, int]]) -> None:
    level = write(tmp_path / "b", size)
    block = BlockFile(tmp_path / "b")
    assert (block.size, block.jpeg) == (size, JpegConfig())
    assert [block.shape(k) for k in range(4)] == shapes
    for k, (rows, cols) in enumerate(shapes):
        for row, col in ((0, 0), (rows - 1, cols - 1)):
            inside = level[256 * row : 256 * row + 256, 256 * col : 256 * col + 256]
            tile = imagecodecs.jpeg8_decode(block.tile(k, row, col))
            pad_tile = np.pad(inside, ((0, 256 - inside.shape[0]), (0, 256 - inside.shape[1]), (0, 0)), mode="edge")
            assert tile.shape == (256, 256, 3)
            assert np.abs(tile.astype(int) - pad_tile).max() <= 12
        level = halve_slowly(level)
    np.testing.assert_array_equal(block.mip, level)


def test_glass_is_an_empty_entry_at_every_level_where_nothing_is_kept_below(tmp_path: Path) -> None:
    kept = np.zeros((5, 9), bool)
    kept[1, 6] = True
    write(tmp_path / "b", Size(9 * 256 - 3, 5 * 256 - 100), kept)
    block = BlockFile(tmp_path / "b")
    for k in range(4):
        rows, cols = block.shape(k)
        filled = [(r, c) for r in range(rows) for c in range(cols) if block.tile(k, r, c)]
        assert filled == [(1 >> k, 6 >> k)]
    with pytest.raises(IndexError):
        block.tile(0, 0, 9)
    with pytest.raises(IndexError):
        block.tile(0, -1, 0)


def sampling_factors(stream: bytes) -> list[int]:
    """Each component's horizontal and vertical sampling factors, as the frame header has them."""
    frame = stream.index(b"\xff\xc0")
    return [stream[frame + 11 + 3 * component] for component in range(stream[frame + 9])]


def test_jpeg_has_full_chroma() -> None:
    stream = encode_jpeg(smooth(Size(256, 256)), 90)
    assert sampling_factors(stream) == [0x11, 0x11, 0x11]
    assert b"JFIF" in stream  # JFIF means YCbCr


def test_chroma_is_subsampled_by_choice_on_every_level(tmp_path: Path) -> None:
    write_block(tmp_path / "b", smooth(Size(700, 600)), np.ones((3, 3), bool), JpegConfig(subsampling=420))
    block = BlockFile(tmp_path / "b")
    assert block.jpeg == JpegConfig(subsampling=420)
    for k in range(4):
        for row, col in np.ndindex(block.shape(k)):
            assert sampling_factors(block.tile(k, row, col)) == [0x22, 0x11, 0x11]


def test_a_thread_pool_writes_the_same_bytes(tmp_path: Path) -> None:
    pixels, kept = smooth(Size(1000, 700)), np.ones((3, 4), bool)
    write_block(tmp_path / "a", pixels, kept, JpegConfig())
    with ThreadPoolExecutor(3) as pool:
        write_block(tmp_path / "b", pixels, kept, JpegConfig(), run=pool.map)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("start", "content", "message"),
    [
        (0, b"NOTBLOCK", "does not begin like a block file"),
        (8, b"\x63", "format version 99"),
        (12, b"\xff", "checksum differs"),
        (16, b"nonsense", "checksum differs"),
        (-200, b"\0", "checksum differs"),
        (200, bytes(4096), "checksum differs"),
        (-4, b"\0\0\0\0", "checksum differs"),
    ],
    ids=["magic", "version", "length", "index", "payload", "zeroed", "checksum"],
)
def test_damage_is_refused_on_opening(tmp_path: Path, start: int, content: bytes, message: str) -> None:
    write(tmp_path / "b", Size(300, 200))
    whole = bytearray((tmp_path / "b").read_bytes())
    start %= len(whole)
    whole[start : start + len(content)] = content
    (tmp_path / "b").write_bytes(whole)
    with pytest.raises(OutputError, match=message):
        BlockFile(tmp_path / "b")


def test_a_cut_file_is_refused_on_opening(tmp_path: Path) -> None:
    write(tmp_path / "b", Size(300, 200))
    whole = (tmp_path / "b").read_bytes()
    for length in (0, 10, 60, len(whole) - 1):
        (tmp_path / "b").write_bytes(whole[:length])
        with pytest.raises(OutputError, match="not a whole block file"):
            BlockFile(tmp_path / "b")
    with pytest.raises(OutputError, match="No such file"):
        BlockFile(tmp_path / "missing")
