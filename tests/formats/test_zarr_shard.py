"""The bytes of a shard: an index that fits, checksums that notice, the same bytes for the same tiles."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import google_crc32c
import numcodecs.blosc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi_stain.core.errors import StoreError
from wsi_stain.core.geometry import TileIndex
from wsi_stain.formats.zarr_shard import CODECS, INDEX_BYTES, TILE_BYTES, ShardFile, decode, encode, write_shard

PLACES = [TileIndex(0, 0), TileIndex(3, 15), TileIndex(15, 2)]


def tile(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 9, (256, 256, 3), np.uint8)


def shard_bytes(places: list[TileIndex]) -> bytes:
    file = io.BytesIO()
    write_shard(file, {place: tile(place.row) for place in places})
    return file.getvalue()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "shard"
    path.write_bytes(shard_bytes(PLACES))
    return path


@given(st.binary(min_size=1, max_size=3000))
def test_any_bytes_survive(content: bytes) -> None:
    values = np.frombuffer(content, np.uint8)
    assert decode(encode(values), len(content)).tobytes() == content


@pytest.mark.parametrize("size", [999, 1001])
def test_a_chunk_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        decode(encode(np.zeros(1000, np.uint8)), size)


@given(st.integers(0), st.integers(0, 7))
def test_any_flipped_bit_is_noticed(place: int, bit: int) -> None:
    chunk = bytearray(encode(np.arange(1000, dtype=np.uint16)))
    chunk[place % len(chunk)] ^= 1 << bit
    with pytest.raises(ValueError, match="checksum"):
        decode(bytes(chunk), 2000)


def test_tiles_read_back(path: Path) -> None:
    with ShardFile(path) as file:
        index = file.read_index()
        for place, pixels in zip(PLACES, file.read_tiles(PLACES, index), strict=True):
            assert np.array_equal(pixels, tile(place.row))


@pytest.mark.parametrize(("levels", "copied"), [(256, True), (9, False)])
def test_tiles_that_hardly_compress_are_copied_and_any_blosc_reads_both(levels: int, copied: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, levels, (256, 256, 3), np.uint8)
    codec = CODECS["lossless"]
    chunk = codec.encode(pixels)
    assert (len(chunk) == TILE_BYTES + 16 + 4) == copied  # Blosc's header, the checksum
    planes = np.frombuffer(numcodecs.blosc.Blosc().decode(chunk[:-4]), np.uint8).reshape(3, 256, 256)
    assert np.array_equal(planes.transpose(1, 2, 0), pixels)
    assert np.array_equal(codec.decode(chunk), pixels)


def test_the_index_tells_chunks_apart_from_gaps(path: Path) -> None:
    with ShardFile(path) as file:
        index = file.read_index()
        present = [TileIndex(*place) for place in np.argwhere(index[..., 0] != 2**64 - 1).tolist()]
        assert present == PLACES
        with pytest.raises(StoreError, match="lacks the tile at row 7, column 7"):
            list(file.read_tiles([TileIndex(7, 7)], index))
    used = sum(int(index[place][1]) for place in PLACES)
    assert used + INDEX_BYTES == path.stat().st_size


def test_places_in_the_slide_and_order_make_no_difference() -> None:
    moved = [TileIndex(place.row, place.col + 32) for place in PLACES]
    assert shard_bytes(PLACES) == shard_bytes(PLACES[::-1]) == shard_bytes(moved)


def test_a_shard_may_be_empty(tmp_path: Path) -> None:
    (tmp_path / "shard").write_bytes(shard_bytes([]))
    with ShardFile(tmp_path / "shard") as file:
        assert np.all(file.read_index() == 2**64 - 1)


@pytest.mark.parametrize("entry", [(0, 2**40), (2**40, 1), (2**64 - 2, 2**64 - 2)], ids=["long", "far", "overflow"])
def test_an_index_that_points_outside_is_refused(path: Path, entry: tuple[int, int]) -> None:
    content = path.read_bytes()
    index = struct.pack("<QQ", *entry) + content[-INDEX_BYTES + 16 : -4]
    path.write_bytes(content[:-INDEX_BYTES] + index + struct.pack("<I", google_crc32c.value(index)))
    with ShardFile(path) as file, pytest.raises(StoreError, match="beyond the chunks"):
        file.read_index()


@pytest.mark.parametrize("size", [0, 3, 4, 20, INDEX_BYTES - 1])
def test_a_stub_is_refused(path: Path, size: int) -> None:
    os.truncate(path, size)
    with ShardFile(path) as file, pytest.raises(StoreError, match="damaged in its index"):
        file.read_index()


def test_a_missing_shard_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read: No such file"):
        ShardFile(tmp_path / "none")
