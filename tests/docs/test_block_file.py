"""A block file is what docs/block-file.md says: read here with nothing of ours, by the document's own example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest

from tests.docs.test_examples import ROOT, examples
from wsi_stain.core.geometry import Size, grid_shape
from wsi_stain.formats.block_file import BlockFile, JpegConfig, block_levels, write_block

SIZE = Size(700, 1100)
KEPT = np.ones(grid_shape(SIZE), bool)
KEPT[3:] = False


def crc32c(content: bytes) -> int:
    """Bit by bit, from the polynomial."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _bit in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the document's example finds in a file."""
    y, x = np.mgrid[: SIZE.height, : SIZE.width]
    pixels = np.stack([x // 4, y // 5, (x + y) // 8], axis=-1).astype(np.uint8)
    write_block(tmp_path / "0_0.block", pixels, KEPT, JpegConfig())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"pixels": pixels}
    (example,) = examples(ROOT / "docs" / "block-file.md")
    exec(example, names)
    return names


def test_tiles_lie_where_the_document_says(read: dict[str, Any]) -> None:
    levels = list(block_levels(read["pixels"], KEPT))
    wanted = {(level, *map(int, tile)) for level in range(4) for tile in np.argwhere(levels[level][1])}
    assert set(read["tiles"]) == wanted and (0, 3, 0) not in wanted
    for (level, row, col), picture in read["tiles"].items():
        source = levels[level][0][row * 256 :, col * 256 :][:256, :256]
        found = np.asarray(picture).astype(int)
        assert picture.size == (256, 256)
        assert np.abs(found[: source.shape[0], : source.shape[1]] - source).max() <= 8
        assert np.abs(found[source.shape[0] :] - found[source.shape[0] - 1]).max(initial=0) <= 12, "repeated below"
    np.testing.assert_array_equal(imagecodecs.qoi_decode(read["mip"]), levels[4][0])


def test_the_checksum_is_the_one_that_the_document_names(read: dict[str, Any]) -> None:
    assert crc32c(read["content"][:-4]) == read["checksum"]


def test_our_own_reader_sees_the_same(read: dict[str, Any]) -> None:
    file = BlockFile(Path("0_0.block"))
    assert list(file.size) == read["index"]["size"] and file.jpeg.model_dump() == read["index"]["jpeg"]
    np.testing.assert_array_equal(file.mip, imagecodecs.qoi_decode(read["mip"]))
