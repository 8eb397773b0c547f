"""A colour table as an ICC profile and as `.cube` does what the table does, in other people's programs."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from tests.support.made_store import paint_tissue
from wsi_stain.core.geometry import Size
from wsi_stain.formats.cube_table import decode_cube, encode_cube
from wsi_stain.formats.icc_table import apply_icc, encode_icc
from wsi_stain.stain.colour_table import Table, apply_table, refine_table

APPLY = Path(__file__).parent.parent / "support" / "java" / "ApplyProfile.java"
INTENTS = list(ImageCms.Intent)

Pixels = NDArray[np.uint8]


def change_of_stain(size: int = 17) -> Table:
    """A table as a slide's is: curved, darker, another hue; every channel depends on more than itself."""
    red, green, blue = np.stack(np.meshgrid(*[np.linspace(0, 1, size)] * 3, indexing="ij"))
    changed = [0.05 + 0.9 * red**0.8 + 0.05 * green, 0.04 + 0.92 * green**1.3, 0.05 + 0.7 * blue + 0.25 * red * green]
    return np.stack(changed, axis=-1).clip(0, 1).astype(np.float32) * np.float32(255)


def colours() -> Pixels:
    """Colours of tissue, and all others but those whose cell has the profile's black corner: (h, w, 3)."""
    anything = np.random.default_rng(0).integers(0, 256, (64, 300, 3), dtype=np.uint8)
    anything[..., 1] = anything[..., 1].clip(16)
    return np.concatenate([paint_tissue(Size(300, 200)), anything])


def assert_same(shown: NDArray[np.integer], expected: Pixels) -> None:
    apart = np.abs(shown.astype(int) - expected).max(axis=2)
    assert apart.max() <= 3 and (apart <= 1).mean() >= 0.99


def with_pillow(profile: Path, pixels: Pixels, intent: ImageCms.Intent) -> Pixels:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile.read_bytes()))
    to_srgb = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "RGB", "RGB", intent)
    return np.asarray(ImageCms.applyTransform(Image.fromarray(pixels), to_srgb))


def with_vips(profile: Path, pixels: Pixels, intent: str) -> Pixels:
    image = pyvips.Image.new_from_array(pixels, interpretation="srgb")
    return image.icc_transform("srgb", input_profile=str(profile), intent=intent).numpy()


def with_java(profile: Path, pixels: Pixels) -> Pixels:
    if shutil.which("java") is None:
        pytest.skip("no Java")
    height, width = pixels.shape[:2]
    command = ["java", APPLY, profile, str(width), str(height)]
    ended = subprocess.run(command, input=pixels.tobytes(), capture_output=True, check=False)
    if b"Module jdk.compiler not found" in ended.stderr:
        pytest.skip("Java without its compiler")
    assert ended.returncode == 0, ended.stderr
    return np.frombuffer(ended.stdout, np.uint8).reshape(pixels.shape)


def with_large_image(profile: Path, pixels: Pixels) -> Pixels:
    large_image = pytest.importorskip("large_image", reason="large_image is not installed")
    path = profile.with_suffix(".tif")
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(256, 256), metadata=None, iccprofile=profile.read_bytes())
    return large_image.open(path).getRegion(format=large_image.constants.TILE_FORMAT_NUMPY)[0][..., :3]


READERS: dict[str, Callable[[Path, Pixels], Pixels]] = {
    **{
        f"pillow-{intent.name}": lambda path, pixels, intent=intent: with_pillow(path, pixels, intent)
        for intent in INTENTS
    },
    "vips-relative": lambda path, pixels: with_vips(path, pixels, "relative"),
    "vips-perceptual": lambda path, pixels: with_vips(path, pixels, "perceptual"),
}


SLOW_READERS = {"java": with_java, "large-image": with_large_image}


ALL_READERS = pytest.mark.parametrize(
    "reader", [*READERS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_READERS)]
)


@ALL_READERS
@pytest.mark.parametrize("size", [17, 33])
def test_a_reader_that_applies_the_profile_shows_the_table_s_colours(reader: str, size: int, tmp_path: Path) -> None:
    table, pixels, profile = change_of_stain(size), colours(), tmp_path / "slide.icc"
    profile.write_bytes(encode_icc(table, "a slide"))
    shown = (READERS | SLOW_READERS)[reader](profile, pixels)
    assert_same(shown, apply_table(table, pixels))
    assert np.abs(shown.astype(int) - pixels).max() > 20, "and that is another picture"


@ALL_READERS
def test_a_table_that_is_not_smooth_comes_out_as_it_is(reader: str, tmp_path: Path) -> None:
    """Little CMS would make it smooth along gray, and miss the table's entries elsewhere."""
    rough = change_of_stain() + np.random.default_rng(1).normal(0, 3, (17, 17, 17, 3)).astype(np.float32)
    table, pixels, profile = refine_table(rough.clip(0, 255)), colours(), tmp_path / "slide.icc"
    profile.write_bytes(encode_icc(table, "a slide"))
    apart = np.abs((READERS | SLOW_READERS)[reader](profile, pixels).astype(int) - apply_table(table, pixels)).max(
        axis=2
    )
    assert (apart <= 1).mean() >= 0.99 and (apart <= 2).mean() >= 0.999


def test_a_profile_is_small_named_and_always_the_same() -> None:
    profile = encode_icc(change_of_stain(), "wsi-stain 0123")
    assert len(profile) < 31_000 and profile == encode_icc(change_of_stain(), "wsi-stain 0123")
    read = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    assert ImageCms.getProfileDescription(read).strip() == "wsi-stain 0123"
    assert read.profile.device_class == "scnr" and not read.profile.profile_id.strip(b"\0")


def test_what_is_no_profile_is_refused() -> None:
    with pytest.raises(ValueError, match=r"."):
        apply_icc(b"no profile", colours())


def test_a_cube_file_holds_the_table_red_running_fastest() -> None:
    table = change_of_stain(5)
    content = encode_cube(table, "a slide", {"run": "0123"})
    np.testing.assert_allclose(decode_cube(content), table, atol=2e-4)
    lines = content.decode().splitlines()
    assert lines[:3] == ['TITLE "a slide"', "# run: 0123", "LUT_3D_SIZE 5"]
    np.testing.assert_allclose([float(value) for value in lines[4].split()], table[1, 0, 0] / 255, atol=1e-6)
    assert len(lines) == 3 + 5**3


@pytest.mark.parametrize("content", [b"", b"LUT_3D_SIZE 2\n0 0 0\n", b"LUT_3D_SIZE 2\n" + b"0 0 x\n" * 8])
def test_what_is_no_cube_file_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_cube(content)
