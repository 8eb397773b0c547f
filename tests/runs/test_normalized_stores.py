"""`normalize` for those who feed models: labelled stores and folders of patches in the reference's stain, lossless."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.commands import Run
from tests.support.files_below import digests
from tests.support.made_checkpoint import write_untrained
from tests.support.patch_files import cut_patches, idc_patient, import_source, save, table, tissue
from tests.support.tiled_slides import SMALL, paint, write
from tests.support.tiled_slides import Run as Tiling
from wsi_stain import StainNormalize, TileStore
from wsi_stain.core.errors import StoreError
from wsi_stain.core.geometry import Region
from wsi_stain.datasets.idc import IdcPatient
from wsi_stain.normalize.patch_files import file_names
from wsi_stain.normalizers.config import NormalizeConfig
from wsi_stain.results import read_summary
from wsi_stain.store import StoredSlide
from wsi_stain.store.patches import Patch

FAST = {"lut_tiles": 10, "lut_size": 9, "stride_px": 256}
CONFIG = "tiling: {stain: {min_pixels: 100}}\nnormalize: {lut_tiles: 10, lut_size: 9, stride_px: 256, mode: MODE}\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained(tmp_path_factory.mktemp("checkpoint") / "c.safetensors", mpp=1.0, gain=12)


def config(tmp_path: Path, mode: str = "lut") -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.replace("MODE", mode))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Patches of two laboratories, each in folders by label."""
    for seed, laboratory in enumerate(("north", "south")):
        for number, patch in enumerate(cut_patches(tissue(800, 500, seed), 100)):
            label = ("stroma", "tumour")[number % 2]
            save(tmp_path / "in" / laboratory / label / f"{number}.png", patch)
    return tmp_path / "in"


def normalized_by_transform(slide: StoredSlide, checkpoint: Path, mode: str = "lut") -> StainNormalize:
    return StainNormalize(checkpoint, slide, NormalizeConfig.model_validate({"mode": mode, **FAST}))


def test_folders_of_patches_come_out_as_the_same_folders(
    wsi_stain: Run, folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    common = [folder, "--patch-mpp", 1, "--checkpoint", checkpoint, "-c", config(tmp_path), "-o", out, "-j", 0]
    ended = wsi_stain("normalize", *common)
    assert ended.code == 0, ended.out
    given = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    assert {path.relative_to(out / "patches" / "in").as_posix() for path in (out / "patches").rglob("*.*")} == given
    store = TileStore(out / "work" / "patches.zarr")
    for slide_id, laboratory in zip(store.slide_ids(), ("north", "south"), strict=True):
        transform = normalized_by_transform(store[slide_id], checkpoint)
        for label in ("stroma", "tumour"):
            for path in sorted((folder / laboratory / label).iterdir())[:3]:
                found = np.asarray(Image.open(out / "patches" / "in" / laboratory / label / path.name))
                assert np.array_equal(found, transform.normalize(np.asarray(Image.open(path))))
    rows = read_summary(out / "summary.csv")
    assert [(row["slide"], row["status"], row["output"]) for row in rows] == [
        ("in/north", "done", "patches/in/north"),
        ("in/south", "done", "patches/in/south"),
    ]
    # Run again: nothing is done again, and what was lost comes back as it was.
    kept, lost = (out / "patches" / "in" / "north" / "stroma" / name for name in ("0.png", "2.png"))
    before = kept.stat().st_mtime_ns
    assert wsi_stain("normalize", *common).code == 0
    assert kept.stat().st_mtime_ns == before
    content = lost.read_bytes()
    lost.unlink()
    assert wsi_stain("normalize", *common).code == 0
    assert lost.read_bytes() == content
    assert wsi_stain("verify", out, "-j", 0).code == 0
    lost.write_bytes(content[:-1])
    ended = wsi_stain("verify", out, "-j", 0)
    assert ended.code == 3 and "1 faults" in ended.out


@pytest.mark.parametrize("mode", ["lut", "generator"])
def test_a_labelled_store_keeps_everything_but_its_colours(
    wsi_stain: Run, checkpoint: Path, tmp_path: Path, mode: str
) -> None:
    idc_patient(tmp_path / "idc", "10253", tissue(400, 300))
    slide, _ = import_source(IdcPatient(tmp_path / "idc" / "10253"), tmp_path / "patches.zarr")
    ended = wsi_stain(
        *("normalize", tmp_path / "patches.zarr", "--to", "store", "--checkpoint", checkpoint),
        *("-c", config(tmp_path, mode), "-o", tmp_path / "out", "-j", 0),
    )
    assert ended.code == 0, ended.out
    made = TileStore(tmp_path / "out" / "tiles.zarr")["10253"]
    made.check_shards()
    assert made.maps() == slide.maps() and "label-1" in made.maps()
    assert all(
        np.array_equal(made.map(name), slide.map(name), equal_nan=True) for name in slide.maps() if name != "kept"
    )
    assert made.table("patches") == slide.table("patches")
    assert (made.record.patient, made.size, made.mpp) == (slide.record.patient, slide.size, slide.mpp) != (None, 0, 0)
    assert made.record.key != slide.record.key
    transform = normalized_by_transform(slide, checkpoint, mode)
    for patch in list(table(slide).values())[:5]:
        assert patch.region
        before, after = slide.read(patch.region), made.read(patch.region)
        assert np.array_equal(after, transform.normalize(before))
        assert not np.array_equal(after, before)


def test_a_store_of_slides_is_normalized_with_its_surroundings(wsi_stain: Run, tmp_path: Path) -> None:
    checkpoint = write_untrained(tmp_path / "c.safetensors", gain=12)
    stored = Tiling(write(tmp_path / "a.tif", paint(SMALL)), tmp_path / "store").whole()
    common = [
        tmp_path / "store",
        "--checkpoint",
        checkpoint,
        "-c",
        config(tmp_path, "generator"),
        "-o",
        tmp_path / "out",
    ]
    assert wsi_stain("normalize", *common, "-j", 0, "--to", "store").code == 0
    made = TileStore(tmp_path / "out" / "tiles.zarr")["a.tif"]
    from wsi_stain import normalized_tiles

    normalize = NormalizeConfig.model_validate({"mode": "generator", **FAST})
    inside = Region(0, 0, *SMALL)
    for tile, pixels in normalized_tiles(stored, checkpoint, normalize):
        expected = pixels[: inside.height - tile.row * 256, : inside.width - tile.col * 256]
        assert np.abs(made.read_tile(tile)[: expected.shape[0], : expected.shape[1]].astype(int) - expected).max() <= 1
    whole = digests(tmp_path / "out" / "tiles.zarr")  # a slide that lost a file is made again as it was
    (made.path / "maps" / "suspect" / "zarr.json").unlink()
    assert wsi_stain("normalize", *common, "-j", 0, "--to", "store").code == 0
    assert digests(tmp_path / "out" / "tiles.zarr") == whole
    refused = wsi_stain("normalize", *common, "-j", 0, "--to", "images")
    assert refused.code == 3 and "a.tif was not made of patches" in refused.out


def test_slides_are_read_directly(wsi_stain: Run, tmp_path: Path) -> None:
    checkpoint = write_untrained(tmp_path / "c.safetensors")
    (tmp_path / "slides").mkdir()
    write(tmp_path / "slides" / "a.tif", paint(SMALL))
    common = ["normalize", tmp_path / "slides", "--checkpoint", checkpoint, "-c", config(tmp_path), "-j", 0]
    assert wsi_stain(*common, "-o", tmp_path / "out").code == 0
    assert (tmp_path / "out" / "slides" / "a.ome.tif").exists()
    assert not list((tmp_path / "out").rglob("*.zarr"))
    refused = wsi_stain(*common, "-o", tmp_path / "other", "--to", "store")
    assert refused.code == 1 and "--to store needs tiles, got slides" in refused.err


def test_files_are_called_like_patches() -> None:
    place = Region(0, 0, 1, 1)
    patches = [
        Patch("0/a.png", place, "0"),
        Patch("0/a.jpg", place, "0"),
        Patch("0/b.tif", place, "0"),
        Patch("set_x.h5:12", place, "1"),
        Patch("plain", place),
    ]
    assert file_names(patches) == {
        "0/a.png": "0/a.png.png",
        "0/a.jpg": "0/a.jpg.png",
        "0/b.tif": "0/b.png",
        "set_x.h5:12": "1/set_x.h5_12.png",
        "plain": "plain.png",
    }
    meeting = [Patch(name, place) for name in ("l/a:b.png", "l/a_b.png", "l/A_B.PNG", "nul.png", "l:m/x.png")]
    names = file_names([*meeting, Patch("l:m/y.png", place, "l:m")])
    assert len({name.lower() for name in names.values()}) == 6 and names["l:m/y.png"] == "l_m/y.png"
    for name in ("../x.png", "/etc/x.png", "a/../../x.png"):
        with pytest.raises(StoreError, match="is no name of a patch"):
            file_names([Patch(name, place)])
