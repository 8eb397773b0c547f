"""OME-Zarr pyramids as their readers see them: valid metadata, the very pixels that went in, glass in its colour."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import yaozarrs
import zarr
from numpy.typing import NDArray
from ome_zarr_models.v05 import Image

from tests.support.made_pyramid import STITCH, WHITE, block_pixels, kept_tiles, levels_of, stitch_task
from wsi_stain.core import journal
from wsi_stain.core.errors import OutputError
from wsi_stain.core.geometry import BlockIndex, Mpp, Size, level_sizes
from wsi_stain.core.receipts import partial_directory
from wsi_stain.formats.block_file import halve
from wsi_stain.pyramid.ome_zarr import write_block_shards
from wsi_stain.pyramid.stitch import StitchTask, stitch_slide

Pixels = NDArray[np.uint8]
MPP = Mpp(0.25, 0.26)
SIZES = [Size(1, 1), Size(300, 200), Size(257, 70), Size(100, 2049), Size(4098, 40)]


def noise(size: Size) -> Pixels:
    """Pixels that no lossy step would leave as they are."""
    return np.random.default_rng(size.width).integers(0, 256, (size.height, size.width, 3), np.uint8)


def make_task(directory: Path, pixels: Pixels, missing: frozenset[BlockIndex] = frozenset()) -> StitchTask:
    """Do the block stage's work, shards included; `pixels` is changed as `stitch_task` says."""
    task = stitch_task(
        directory,
        pixels,
        missing,
        slide_id="patient",
        icc_profile=b"profile",
        provenance={"checkpoint_sha256": "digest"},
        output=directory / "slides" / "slide.ome.zarr",
        receipt=directory / "receipts" / "ome-zarr.json",
        format="ome-zarr",
    )
    partial, levels = partial_directory(task.output), len(level_sizes(task.size))
    shards = {}
    for index in task.blocks:
        block = block_pixels(pixels, index)
        shards |= write_block_shards(partial, index, block, kept_tiles(block), WHITE, levels)
    return replace(task, shards=shards)


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> tuple[StitchTask, Pixels]:
    """Three blocks of four; the far ones are cut at odd places."""
    pixels = noise(Size(4096 + 1113, 4096 + 301))
    task = make_task(tmp_path_factory.mktemp("big"), pixels, frozenset([BlockIndex(0, 1)]))
    stitch_slide(task)
    return task, pixels


def by_tensorstore(path: Path, level: int) -> Pixels:
    array = tensorstore.open({"driver": "zarr3", "kvstore": f"file://{path}/{level}/"}, read=True).result()
    return np.moveaxis(array.read().result(), 0, -1)


def by_zarr(path: Path, level: int) -> Pixels:
    array = zarr.open_group(path, mode="r")[str(level)]
    assert isinstance(array, zarr.Array)
    return np.moveaxis(np.asarray(array[:]), 0, -1)


@pytest.mark.parametrize("read", [by_tensorstore, by_zarr])
def test_every_level_gives_back_every_pixel(big: tuple[StitchTask, Pixels], read: Any) -> None:
    task, pixels = big
    for level, truth in zip(range(len(level_sizes(task.size))), levels_of(pixels), strict=False):
        np.testing.assert_array_equal(read(task.output, level), truth)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_small_and_narrow_slides(tmp_path: Path, size: Size) -> None:
    pixels = noise(size)
    task = make_task(tmp_path, pixels)
    assert stitch_slide(task)["levels"] == len(level_sizes(size))
    for level, truth in zip(range(len(level_sizes(size))), levels_of(pixels), strict=False):
        np.testing.assert_array_equal(by_tensorstore(task.output, level), truth)


def test_the_metadata_is_valid(big: tuple[StitchTask, Pixels]) -> None:
    task, _ = big
    yaozarrs.validate_zarr_store(str(task.output))
    image = Image.from_zarr(zarr.open_group(task.output, mode="r"))
    (multiscale,) = image.ome_attributes.multiscales
    assert [axis.name for axis in multiscale.axes] == ["c", "y", "x"]
    assert [dataset.path for dataset in multiscale.datasets] == [str(k) for k in range(len(level_sizes(task.size)))]
    omero = image.ome_attributes.model_dump()["omero"]
    assert [channel["color"] for channel in omero["channels"]] == ["FF0000", "00FF00", "0000FF"]


def test_each_level_lies_where_its_pixels_came_from(big: tuple[StitchTask, Pixels]) -> None:
    """NGFF places centres of pixels: pixel (0, 0) of level k is the mean of pixels 0 to 2^k - 1 of level 0."""
    task, _ = big
    datasets = json.loads((task.output / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]["datasets"]
    for level, dataset in enumerate(datasets):
        scale, *translation = (step[step["type"]] for step in dataset["coordinateTransformations"])
        covered = np.arange(2**level)
        np.testing.assert_allclose(scale, [1, MPP.y * 2**level, MPP.x * 2**level])
        shift = translation[0] if translation else [0, 0, 0]
        np.testing.assert_allclose(shift, [0, MPP.y * covered.mean(), MPP.x * covered.mean()])


def test_the_group_says_how_it_was_made_and_nothing_of_the_patient(big: tuple[StitchTask, Pixels]) -> None:
    task, _ = big
    text = (task.output / "zarr.json").read_text()
    assert json.loads(text)["attributes"]["wsi_stain"] == {
        "provenance": {"checkpoint_sha256": "digest"},
        "objective_power": 40.0,
        "icc_profile": "cHJvZmlsZQ==",
    }
    assert "patient" not in text


def test_glass_costs_next_to_nothing(tmp_path: Path) -> None:
    task = replace(make_task(tmp_path, noise(Size(300, 200))), blocks={}, shards={}, size=Size(9003, 8201))
    receipt = stitch_slide(task)
    for level in range(receipt["levels"]):
        assert (by_tensorstore(task.output, level) == WHITE).all()
    assert receipt["product"]["size"] < 150_000, "it stands for 300 MB"


def test_the_receipt_knows_every_file_and_no_stranger_stays(tmp_path: Path) -> None:
    task = make_task(tmp_path, noise(Size(1300, 700)))
    stray = partial_directory(task.output) / "0" / "c" / "0" / "7" / "7"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"of an attempt with another size")
    receipt = stitch_slide(task)
    assert journal.describe_files(task.output) == receipt["product"]["files"]
    assert "0/c/0/7/7" not in receipt["product"]["files"]
    assert not partial_directory(task.output).exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [Path.unlink, cut, zero], ids=["missing", "truncated", "zeroed"])
def test_a_damaged_shard_leaves_no_output_and_is_made_again(tmp_path: Path, damage: Any) -> None:
    task = make_task(tmp_path, noise(Size(1300, 700)))
    shard = partial_directory(task.output) / "1" / "c" / "0" / "0" / "0"
    damage(shard)
    with pytest.raises(OutputError, match="Run the same command again"):
        stitch_slide(task)
    assert not task.output.exists() and not task.receipt.exists() and not shard.exists()


FAILPOINTS = {
    "within a block": "stitch-block:2",
    "glass": "before-rename:3",
    "group metadata": "before-rename:16",
    "receipt": "before-rename:17",
    "final name": "before-rename:18",
}


@pytest.mark.parametrize("failpoint", FAILPOINTS.values(), ids=list(FAILPOINTS))
def test_killed_and_run_again_gives_the_same_bytes(
    tmp_path: Path, big: tuple[StitchTask, Pixels], failpoint: str
) -> None:
    task = make_task(tmp_path, big[1].copy(), frozenset([BlockIndex(0, 1)]))
    killed = subprocess.run(
        [sys.executable, "-c", STITCH],
        input=pickle.dumps(task),
        env={"WSI_STAIN_FAILPOINT": failpoint, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert killed.returncode == -9
    assert not task.output.exists(), "a group without its metadata, or with holes, is never seen under its name"
    receipt, whole = stitch_slide(task), journal.read_json(big[0].receipt)
    assert receipt["product"] == whole["product"]


def test_ome_zarr_py_reads_it(big: tuple[StitchTask, Pixels]) -> None:
    io = pytest.importorskip("ome_zarr.io", reason="ome-zarr is not installed: it brings many packages along")
    reader = pytest.importorskip("ome_zarr.reader")
    task, pixels = big
    (node, *_) = reader.Reader(io.parse_url(task.output))()
    assert [level.shape[::-1][:2] for level in node.data] == level_sizes(task.size)
    np.testing.assert_array_equal(np.moveaxis(np.asarray(node.data[2]), 0, -1), halve(halve(pixels)))
    assert node.metadata["channel_names"] == ["red", "green", "blue"]
