"""Stitching: block files in, a pyramid that readers open out."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.made_pyramid import STITCH, WHITE, levels_of, picture, stitch_task
from wsi_stain.core.errors import OutputError
from wsi_stain.core.geometry import BlockIndex, Size, grid_shape, level_sizes
from wsi_stain.formats.block_file import BlockFile, JpegConfig, encode_jpeg, halve
from wsi_stain.pyramid.stitch import StitchTask, halve_strips, stitch_slide

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> tuple[StitchTask, Pixels]:
    """Three blocks of four; the far ones are cut at odd places."""
    pixels = picture(Size(4096 + 1113, 4096 + 301))
    task = stitch_task(tmp_path_factory.mktemp("big"), pixels, frozenset([BlockIndex(0, 1)]))
    stitch_slide(task)
    return task, pixels


def read(path: Path) -> list[Pixels]:
    with openslide.OpenSlide(path) as slide:
        sizes = slide.level_dimensions
        return [np.asarray(slide.read_region((0, 0), k, size))[..., :3] for k, size in enumerate(sizes)]


def test_every_level_shows_the_picture(big: tuple[StitchTask, Pixels]) -> None:
    task, pixels = big
    levels = read(task.output)
    assert [level.shape[1::-1] for level in levels] == level_sizes(task.size)
    for level, truth in zip(levels, levels_of(pixels), strict=False):
        difference = level.astype(int) - truth
        assert np.abs(difference).mean() < 2
        assert np.abs(difference.mean((0, 1))).max() < 0.3


def test_blocks_are_copied_byte_for_byte(big: tuple[StitchTask, Pixels]) -> None:
    task, _ = big
    with tifffile.TiffFile(task.output) as tiff:
        for (index, path), level in product(task.blocks.items(), range(4)):
            page = tiff.pages[level]
            columns = grid_shape(level_sizes(task.size)[level])[1]
            block = BlockFile(path)
            for row, col in np.ndindex(block.shape(level)):
                side = 16 >> level
                place = (index.row * side + row) * columns + index.col * side + col
                tiff.filehandle.seek(page.dataoffsets[place])
                found = tiff.filehandle.read(page.databytecounts[place])
                assert found == (block.tile(level, row, col) or glass_tile())


def glass_tile() -> bytes:
    return encode_jpeg(np.full((256, 256, 3), WHITE, np.uint8), 95)


def test_coarse_levels_are_compressed_once_from_exact_pixels(big: tuple[StitchTask, Pixels]) -> None:
    task, pixels = big
    truths = dict(zip(range(7), levels_of(pixels), strict=False))
    with tifffile.TiffFile(task.output) as tiff:
        for level in range(4, len(level_sizes(task.size))):
            truth = truths[level]
            expected = encode_jpeg(np.pad(truth[:256, :256], pad_to_tile(truth[:256, :256]), mode="edge"), 95)
            shape = (min(256, truth.shape[0]), min(256, truth.shape[1]))
            decoded = imagecodecs.jpeg8_decode(expected)[: shape[0], : shape[1]]
            np.testing.assert_array_equal(tiff.pages[level].asarray()[: shape[0], : shape[1]], decoded)


def pad_to_tile(pixels: Pixels) -> list[tuple[int, int]]:
    return [(0, 256 - pixels.shape[0]), (0, 256 - pixels.shape[1]), (0, 0)]


def test_readers_find_resolution_objective_and_provenance(big: tuple[StitchTask, Pixels]) -> None:
    task, _ = big
    with openslide.OpenSlide(task.output) as slide:
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.25)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.26)
    with tifffile.TiffFile(task.output) as tiff:
        assert 'NominalMagnification="40"' in tiff.ome_metadata
        assert '<M K="checkpoint">digest</M>' in tiff.ome_metadata
        assert "slide" not in tiff.ome_metadata.replace("wsi-stain", "")


SMALL = [Size(1, 1), Size(300, 200), Size(257, 70), Size(100, 2049), Size(4096, 515), Size(4098, 40)]


@pytest.mark.parametrize("size", SMALL, ids=str)
def test_small_and_narrow_slides(tmp_path: Path, size: Size) -> None:
    pixels = picture(size)
    task = stitch_task(tmp_path, pixels)
    assert stitch_slide(task)["levels"] == len(level_sizes(size))
    levels = read(task.output)
    assert [level.shape[1::-1] for level in levels] == level_sizes(size)
    for level, truth in zip(levels, levels_of(pixels), strict=False):
        np.testing.assert_allclose(level.mean((0, 1)), truth.mean((0, 1)), atol=2.5)


def test_a_slide_without_blocks_is_glass(tmp_path: Path) -> None:
    task = replace(stitch_task(tmp_path, picture(Size(300, 200))), blocks={}, size=Size(5003, 4201))
    stitch_slide(task)
    for level in read(task.output):
        assert np.abs(level.astype(np.int16) - WHITE).max() <= 1
    assert task.output.stat().st_size < 20_000


@given(st.integers(1, 1100), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_halving_strips_is_halving_the_whole(height: int, width: int, seed: int) -> None:
    whole = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    strips = [whole[top : top + 256] for top in range(0, height, 256)]
    found = list(halve_strips(strips))
    assert all(len(strip) == 256 for strip in found[:-1])
    np.testing.assert_array_equal(np.concatenate(found), halve(whole))


def test_a_rerun_keeps_what_holds_and_remakes_what_does_not(tmp_path: Path) -> None:
    task = stitch_task(tmp_path, picture(Size(1300, 700)))
    receipt, first = stitch_slide(task), task.output.read_bytes()
    made = task.output.stat().st_mtime_ns
    assert stitch_slide(task) == receipt
    assert task.output.stat().st_mtime_ns == made
    stitch_slide(replace(task, key="another"))
    assert task.output.stat().st_mtime_ns != made
    assert task.output.read_bytes() == first


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def zero(path: Path) -> None:
    """What a file system may show after a power cut: the right length, and a page of zeros within."""
    content = path.read_bytes()
    path.write_bytes(content[:8192] + bytes(4096) + content[12288:])


@pytest.mark.parametrize("damage", [Path.unlink, cut, zero], ids=["missing", "truncated", "zeroed"])
def test_a_damaged_block_leaves_no_output_and_is_made_again(tmp_path: Path, damage: object) -> None:
    task = stitch_task(tmp_path, picture(Size(1300, 700)))
    block = task.blocks[BlockIndex(0, 0)]
    assert callable(damage)
    damage(block)
    with pytest.raises(OutputError, match="Run the same command again"):
        stitch_slide(task)
    assert not list(task.output.parent.iterdir())
    assert not task.receipt.exists()
    assert not block.exists(), "or its receipt would vouch for it in the next run"


def test_a_block_of_another_slide_is_refused(tmp_path: Path) -> None:
    task = stitch_task(tmp_path, picture(Size(1300, 700)))
    with pytest.raises(OutputError, match=r"should hold 1301 x 700 px .* and holds 1300 x 700"):
        stitch_slide(replace(task, size=Size(1301, 700)))


@pytest.mark.parametrize("subsampling", [444, 420])
def test_chroma_subsampling_is_one_for_all_levels_and_readers_see_it(tmp_path: Path, subsampling: int) -> None:
    jpeg = JpegConfig(quality=95, subsampling=subsampling)
    pixels = picture(Size(5000, 4200))
    task = stitch_task(tmp_path, pixels, jpeg=jpeg)
    stitch_slide(task)
    factors = bytes([0x22 if subsampling == 420 else 0x11])
    with tifffile.TiffFile(task.output) as tiff:
        for page in tiff.pages:
            tag = page.tags.get("YCbCrSubSampling")
            assert (tag and tag.value) == ((2, 2) if subsampling == 420 else None)
            for offset in set(page.dataoffsets):
                tiff.filehandle.seek(offset)
                stream = tiff.filehandle.read(1024)
                frame = stream.index(b"\xff\xc0")
                assert stream[frame + 11 : frame + 12] == factors
        by_tifffile = [level.asarray() for level in tiff.series[0].levels]
    for levels in (by_tifffile, read(task.output)):
        for level, truth in zip(levels, levels_of(pixels), strict=False):
            assert np.abs(level.mean((0, 1)) - truth.mean((0, 1))).max() < 1, "pink or green, where a tag is wrong"
        assert np.abs(levels[0].astype(int) - pixels).mean() < 2


@pytest.mark.parametrize("failpoint", ["stitch-block:2", "before-rename:1"])
def test_killed_and_run_again_gives_the_same_bytes(
    tmp_path: Path, big: tuple[StitchTask, Pixels], failpoint: str
) -> None:
    task = replace(big[0], output=tmp_path / "slide.ome.tif", receipt=tmp_path / "receipt.json")
    killed = subprocess.run(
        [sys.executable, "-c", STITCH],
        input=pickle.dumps(task),
        env={"WSI_STAIN_FAILPOINT": failpoint, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert killed.returncode == -9
    assert not task.output.exists() and not task.receipt.exists()
    stitch_slide(task)
    assert task.output.read_bytes() == big[0].output.read_bytes()
