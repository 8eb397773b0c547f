"""Folders of pictures: labels and slides from folders, colour from any mode, sizes as they are."""

from __future__ import annotations

import os
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.support.patch_files import RgbImage, cut_patches, import_source, refusals, save, table, tissue
from wsi_stain.core.errors import ConfigError
from wsi_stain.datasets.images import find_folders


def picture_set(root: Path, folders: tuple[str, ...], side: int = 128) -> dict[str, RgbImage]:
    """Patches spread over folders in turn, by their path in `root`."""
    written = {}
    for number, patch in enumerate(cut_patches(tissue(), side)):
        name = f"{folders[number % len(folders)]}/p{number:02}.png"
        written[name] = patch
        save(root / name, patch)
    return written


def test_the_folder_of_a_patch_is_its_label(tmp_path: Path) -> None:
    written = picture_set(tmp_path / "set", ("tumour", "stroma, loose"))
    (source,) = find_folders(tmp_path / "set", labelled=True)
    slide, receipt = import_source(source, tmp_path / "store")
    assert (slide.record.relative, slide.record.slide_id) == ("set", "set")
    assert receipt["labels"] == {"stroma, loose": 7, "tumour": 8}
    found = table(slide)
    assert set(found) == set(written)
    for name, pixels in written.items():
        assert found[name].label == name.partition("/")[0]
        np.testing.assert_array_equal(slide.read(found[name].region), pixels)
    np.testing.assert_array_equal(slide.map("label-tumour")[0], [0, 0.25])
    np.testing.assert_array_equal(slide.map("label-tumour")[1], [1, 1])


def test_folders_above_the_label_are_slides(tmp_path: Path) -> None:
    written = picture_set(tmp_path / "set", ("a/tumour", "a/stroma", "lab/b/tumour", "lab/b/tumour/deep", "."))
    sources = find_folders(tmp_path / "set", labelled=True)
    assert {source.relative: source.folders for source in sources} == {
        "set": ((".", None),),
        "set/a": (("stroma", "stroma"), ("tumour", "tumour")),
        "set/lab/b": (("tumour", "tumour"),),
        "set/lab/b/tumour": (("deep", "deep"),),
    }
    names = {
        f"{source.root.relative_to(tmp_path / 'set')}/{patch.name}"
        for source in sources
        for patch in source.listing().patches
    }
    assert {str(Path(name)) for name in names} == {str(Path(name)) for name in written}


def test_folders_may_be_slides_themselves(tmp_path: Path) -> None:
    picture_set(tmp_path / "set", ("a", "b"))
    sources = find_folders(tmp_path / "set", labelled=False)
    assert [source.relative for source in sources] == ["set/a", "set/b"]
    slide, receipt = import_source(sources[0], tmp_path / "store")
    assert receipt["labels"] == {}
    assert slide.record.slide_id == "set__a"


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        pytest.param("a.png", Image.new("RGBA", (8, 8), (100, 50, 20, 128)), [177, 152, 137], id="half transparent"),
        pytest.param("a.png", Image.new("RGBA", (8, 8), (100, 50, 20, 0)), [255, 255, 255], id="transparent"),
        pytest.param("a.png", Image.new("RGB", (8, 8), (100, 50, 20)).quantize(4), [100, 50, 20], id="palette"),
        pytest.param("a.TIF", Image.new("RGB", (8, 8), (100, 50, 20)), [100, 50, 20], id="tiff"),
        pytest.param("a.jpeg", Image.new("RGB", (8, 8), (128, 128, 128)), [128, 128, 128], id="jpeg"),
    ],
)  # fmt: skip
def test_colour_pictures_become_rgb(tmp_path: Path, name: str, image: Image.Image, expected: list[int]) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    image.save(folder / name)
    (source,) = find_folders(folder, labelled=True)
    ((_, pixels),) = source.read(source.listing().patches)
    np.testing.assert_array_equal(pixels, np.broadcast_to(expected, (8, 8, 3)))


@pytest.mark.parametrize(
    ("name", "image", "reason"),
    [
        pytest.param("a.png", Image.new("L", (8, 8)), "is not in 8-bit colour (Pillow calls it L)", id="gray"),
        pytest.param("a.png", Image.fromarray(np.zeros((8, 8), np.uint16)), "is not in 8-bit colour", id="16 bits"),
        pytest.param("a.tif", Image.new("CMYK", (8, 8)), "is not in 8-bit colour (Pillow calls it CMYK)", id="cmyk"),
        pytest.param("a.png", Image.new("RGB", (4097, 1)), "is 4097 x 1 px, expected at most 4096", id="huge"),
        pytest.param("a.jpg", b"GIF89a", "is no picture that can be read", id="no picture"),
    ],
)  # fmt: skip
def test_what_is_no_patch_is_told_and_the_rest_imported(
    tmp_path: Path, name: str, image: Image.Image | bytes, reason: str
) -> None:
    written = picture_set(tmp_path / "set", ("tumour",))
    path = tmp_path / "set/tumour" / name
    path.write_bytes(image) if isinstance(image, bytes) else image.save(path)
    (source,) = find_folders(tmp_path / "set", labelled=True)
    _, receipt = import_source(source, tmp_path / "store")
    assert (receipt["patches"], receipt["refused"]) == (len(written), 1)
    assert refusals(receipt)[f"tumour/{name}"].startswith(reason)


def test_a_stack_of_pages_is_no_patch(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    page = Image.fromarray(tissue()[:64, :64])
    page.save(tmp_path / "set" / "a.tif", save_all=True, append_images=[page])
    (source,) = find_folders(tmp_path / "set", labelled=True)
    (patch,) = source.listing().patches
    assert patch.remark == "holds 2 pictures, expected one"


def test_patches_of_other_sizes_are_told_and_laid_as_they_are(tmp_path: Path) -> None:
    written = picture_set(tmp_path / "set", ("tumour",))
    written["tumour/wide.png"] = tissue()[50:120, :333]
    save(tmp_path / "set/tumour/wide.png", written["tumour/wide.png"])
    (source,) = find_folders(tmp_path / "set", labelled=True)
    slide, receipt = import_source(source, tmp_path / "store")
    assert receipt["refused"] == 0
    assert receipt["remarks"] == ["tumour/wide.png: laid as it is: 333 x 70 px, most are 128 x 128"]
    for name, patch in table(slide).items():
        np.testing.assert_array_equal(slide.read(patch.region), written[name])


def test_a_lone_patch_of_tissue_is_no_dust_and_one_of_glass_no_hole(tmp_path: Path) -> None:
    """Seven rows of seven: tissue in two corners, and around a patch of glass in the middle."""
    colour, rng = tissue()[200:264, 300:364], np.random.default_rng(0)
    coloured = {0, 48, *(7 * row + col for row in (2, 3, 4) for col in (2, 3, 4))} - {24}
    for number in range(49):
        glass = np.asarray(242 + rng.integers(-1, 2, (64, 64, 3)), np.uint8)
        save(tmp_path / f"set/p{number:02}.png", colour if number in coloured else glass)
    (source,) = find_folders(tmp_path / "set", labelled=True)
    slide, _ = import_source(source, tmp_path / "store")
    assert slide.mask.shape == (512, 512)
    assert {n for n in range(49) if slide.mask[64 * (n // 7) + 32, 64 * (n % 7) + 32]} == coloured
    assert not slide.mask[448:].any(), "where no patch lies is no tissue, however near"


def test_file_names_that_are_not_text_come_back_as_bytes(tmp_path: Path) -> None:
    picture_set(tmp_path / "set", ("tumour",))
    odd = os.fsdecode(b"odd\xff.png")
    save(tmp_path / "set" / "tumour" / "new.png", tissue()[:128, :128])
    (tmp_path / "set" / "tumour" / "new.png").rename(tmp_path / "set" / "tumour" / odd)
    (source,) = find_folders(tmp_path / "set", labelled=True)
    slide, _ = import_source(source, tmp_path / "store")
    assert f"tumour/{odd}" in table(slide)


def test_a_directory_without_patches_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("no patch")
    with pytest.raises(ConfigError, match=r"No patches found in .* looked for files ending in \.png"):
        find_folders(tmp_path, labelled=True)


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_more_than_eight_bits_are_refused(tmp_path: Path, bits: int, suffix: str) -> None:
    """Pillow would cut each sample to its upper byte: 12 bits in 16 come out nearly black."""
    picture_set(tmp_path / "set", ("tumour",))
    patch = tissue()[:128, :128]
    deep = tmp_path / "set" / "tumour" / f"deep{suffix}"
    pixels = patch.astype(np.uint16) << (bits - 8)
    if suffix == ".png":
        deep.write_bytes(imagecodecs.png_encode(pixels))
    else:
        tifffile.imwrite(deep, pixels, photometric="rgb")
    (source,) = find_folders(tmp_path / "set", labelled=True)
    _, receipt = import_source(source, tmp_path / "store")
    reason = refusals(receipt)[f"tumour/deep{suffix}"]
    assert "16 bits a sample, expected 8" in reason or ("8-bit colour" in reason and suffix == ".tif")
    assert receipt["refused"] == 1


def test_pictures_that_differ_in_their_suffix_alone_are_reported(tmp_path: Path) -> None:
    for name in ("x.png", "x.jpg", "y.png"):
        save(tmp_path / "set" / "tumour" / name, tissue()[:128, :128])
    (source,) = find_folders(tmp_path / "set", labelled=True)
    remarks = {patch.name: patch.remark for patch in source.listing().patches}
    assert remarks == {
        "tumour/x.png": "has the name of tumour/x.jpg: is it the same picture?",
        "tumour/x.jpg": "has the name of tumour/x.png: is it the same picture?",
        "tumour/y.png": "",
    }
