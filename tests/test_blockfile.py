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

from wsi_stain.blockfile import BlockFile, JpegConfig, encode_jpeg, halve, halve_kept, write_block
from wsi_stain.errors import OutputError
from wsi_stain.geometry import Size, grid_shape

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
    with BlockFile.open(tmp_path / "b") as block:
        assert (block.size, block.quality) == (size, 90)
        assert [block.shape(k) for k in range(4)] == shapes
        block.verify()
        for k, (rows, cols) in enumerate(shapes):
            for row, col in ((0, 0), (rows - 1, cols - 1)):
                inside = level[256 * row : 256 * row + 256, 256 * col : 256 * col + 256]
                tile = imagecodecs.jpeg8_decode(block.tile(k, row, col))
                padded = np.pad(inside, ((0, 256 - inside.shape[0]), (0, 256 - inside.shape[1]), (0, 0)), mode="edge")
                assert tile.shape == (256, 256, 3)
                assert np.abs(tile.astype(int) - padded).max() <= 12
            level = halve_slowly(level)
        np.testing.assert_array_equal(block.mip, level)


def test_glass_is_an_empty_entry_at_every_level_where_nothing_is_kept_below(tmp_path: Path) -> None:
    kept = np.zeros((5, 9), bool)
    kept[1, 6] = True
    write(tmp_path / "b", Size(9 * 256 - 3, 5 * 256 - 100), kept)
    with BlockFile.open(tmp_path / "b") as block:
        for k in range(4):
            rows, cols = block.shape(k)
            filled = [(r, c) for r in range(rows) for c in range(cols) if block.tile(k, r, c)]
            assert filled == [(1 >> k, 6 >> k)]
        with pytest.raises(IndexError):
            block.tile(0, 0, 9)
        with pytest.raises(IndexError):
            block.tile(0, -1, 0)


def test_jpeg_has_full_chroma_and_no_subsampling() -> None:
    stream = encode_jpeg(smooth(Size(256, 256)), 90)
    frame = stream.index(b"\xff\xc0")
    components = stream[frame + 9]
    factors = [stream[frame + 11 + 3 * i] for i in range(components)]
    assert (components, factors) == (3, [0x11, 0x11, 0x11])
    assert b"JFIF" in stream  # JFIF means YCbCr


def test_a_thread_pool_writes_the_same_bytes(tmp_path: Path) -> None:
    pixels, kept = smooth(Size(1000, 700)), np.ones((3, 4), bool)
    write_block(tmp_path / "a", pixels, kept, JpegConfig())
    with ThreadPoolExecutor(3) as pool:
        write_block(tmp_path / "b", pixels, kept, JpegConfig(), pool.map)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("start", "content", "message"),
    [
        (0, b"NOTBLOCK", "does not begin like a block file"),
        (8, b"\x63", "format version 99"),
        (16, b"nonsense", "index cannot be read"),
    ],
    ids=["magic", "version", "index"],
)
def test_damage_to_the_head_is_refused_on_opening(tmp_path: Path, start: int, content: bytes, message: str) -> None:
    write(tmp_path / "b", Size(300, 200))
    whole = bytearray((tmp_path / "b").read_bytes())
    whole[start : start + len(content)] = content
    (tmp_path / "b").write_bytes(whole)
    with pytest.raises(OutputError, match=message):
        BlockFile.open(tmp_path / "b")


def test_a_cut_file_is_refused_on_opening(tmp_path: Path) -> None:
    write(tmp_path / "b", Size(300, 200))
    whole = (tmp_path / "b").read_bytes()
    for length in (0, 10, 60, len(whole) - 1):
        (tmp_path / "b").write_bytes(whole[:length])
        with pytest.raises(OutputError, match="not a whole block file"):
            BlockFile.open(tmp_path / "b")
    with pytest.raises(OutputError, match="No such file"):
        BlockFile.open(tmp_path / "missing")


def test_a_flipped_bit_in_the_payload_fails_the_checksum(tmp_path: Path) -> None:
    write(tmp_path / "b", Size(300, 200))
    whole = bytearray((tmp_path / "b").read_bytes())
    whole[-200] ^= 1
    (tmp_path / "b").write_bytes(whole)
    with BlockFile.open(tmp_path / "b") as block, pytest.raises(OutputError, match="checksum"):
        block.verify()
