"""Verification finds each damage, as exactly one fault, and nothing wrong where nothing is.

Damage to bytes alone is found by receipts. To show that the other checks find what receipts cannot, pyramids are
assembled anew with receipts that hold, from pixels that are wrong.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from pipelines.shared.formats import SUFFIXES, TABLES, Format
from tests.support.commands import TINY, Run
from tests.support.identity import identity_in_every_mode
from wsi_stain.core import journal
from wsi_stain.core.geometry import BlockIndex, Mpp
from wsi_stain.core.icc import srgb_profile
from wsi_stain.core.receipts import Receipt, describe_product, file_product, write_receipt
from wsi_stain.formats.block_file import JpegConfig, write_block
from wsi_stain.metrics.chromatin import LEAST_KEPT, NuclearDetail
from wsi_stain.metrics.nuclei import nuclei_mask
from wsi_stain.pyramid.stitch import StitchTask, stitch_slide
from wsi_stain.results.finished import FinishedSlide, load_finished
from wsi_stain.synthetic import Cohort, write_cohort
from wsi_stain.verification.faults import Fault
from wsi_stain.verification.quality_check import NUCLEI, SSIM_MEAN
from wsi_stain.verification.tasks import TilesTask, VerifyTask, verify_slide, verify_tiles

pytestmark = pytest.mark.filterwarnings("ignore:get_frame_offsets is deprecated:DeprecationWarning")

Pixels = NDArray[np.uint8]
SLIDE = "plain.tif"
OTHER = "nested__odd.tif"


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cohort, Path]:
    """Two synthetic slides, and the output directory of a whole run that trains and yet changes no pixel."""
    folder = tmp_path_factory.mktemp("study")
    cohort = write_cohort(folder, width=1100)
    (cohort.slides / "marked.svs").unlink()
    stained = TINY.replace("template: gray", "template: he").replace("in_channels: 1", "in_channels: 2")
    (folder / "tiny.yaml").write_text(stained.replace("images: 480", "images: 240"))
    request = ("run", cohort.slides, "-r", cohort.reference, "-o", folder / "out", "-c", folder / "tiny.yaml")
    _run_command(*request, "-j", 0, "--keep-tiles")
    return cohort, folder / "out"


def _run_command(*arguments: object) -> None:
    from pipelines.cli import app

    with identity_in_every_mode():
        app.app([str(argument) for argument in arguments], standalone_mode=False)


@pytest.fixture
def out(study: tuple[Cohort, Path], tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(study[1], tmp_path / "out", copy_function=shutil.copy2))


def pyramid(out: Path, slide: str = SLIDE) -> Path:
    return out / "slides" / slide.replace("__", "/").replace(".tif", ".ome.tif")


def place(out: Path, slide: str = SLIDE) -> Path:
    return out / "work" / "slides" / slide


def task(out: Path, slide: str = SLIDE, source: Path | None = None) -> VerifyTask:
    return VerifyTask(place(out, slide), {place(out, slide) / "ome-tiff.json": pyramid(out, slide)}, source)


def read_faults(out: Path) -> list[tuple[str, str]]:
    """Slide and check of each row in verify.csv."""
    return [(row["slide"], row["check"]) for row in rows(out / "verify.csv")]


def take_source_away(out: Path, slide: str = SLIDE) -> None:
    """As if the slide had moved and its tiles had been dropped."""
    row = journal.read_json(place(out, slide) / "row.json")
    row["origin"] |= {"slide": str(out / "moved.tif"), "tiles": str(out / "dropped")}
    journal.write_json(place(out, slide) / "row.json", row)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_nothing_is_wrong_with_a_run(out: Path, wsi_stain: Run) -> None:
    ended = wsi_stain("verify", out, "-j", 0)
    assert (ended.code, read_faults(out)) == (0, [])
    assert "all as it should be" in ended.out
    assert "work/reference.zarr/ref_01.svs" in ended.out
    assert "training/checkpoint.safetensors" in ended.out
    assert not (out / ".lease").exists()


# Bytes that are not those that were written.


def delete(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = [(delete, "file"), (truncate, "size"), (flip_a_bit, "sha256")]


@pytest.mark.parametrize(("damage", "check"), DAMAGES)
@pytest.mark.parametrize("product", ["output", "artifact"])
def test_damaged_bytes_are_the_only_fault(out: Path, product: str, damage: Callable[[Path], None], check: str) -> None:
    path = {"output": pyramid(out), "artifact": place(out) / "artifact.npz"}[product]
    damage(path)
    (fault,) = verify_slide(task(out))["faults"]
    assert fault.check == check
    assert path.name in fault.expected
    assert "un the same command again" in fault.remedy


def test_two_swapped_outputs_are_named(out: Path) -> None:
    one, two, aside = pyramid(out), pyramid(out, OTHER), out / "aside"
    one.rename(aside), two.rename(one), aside.rename(two)
    for slide, other in ((SLIDE, OTHER), (OTHER, SLIDE)):
        (fault,) = verify_slide(task(out, slide))["faults"]
        assert (fault.check, fault.got.endswith(f"the output of {other}")) == ("size", True)


@pytest.mark.parametrize("damage", [delete, truncate, flip_a_bit])
@pytest.mark.parametrize("stored", ["reference.zarr/ref_01.svs", "tiles.zarr/plain.tif"])
def test_damaged_shards_of_kept_tiles_are_found(out: Path, stored: str, damage: Callable[[Path], None]) -> None:
    folder = out / "work" / stored
    shard = folder / "0" / "c" / "0" / "0" / "0"
    assert verify_tiles(TilesTask(folder))["faults"] == []
    damage(shard)
    (fault,) = verify_tiles(TilesTask(folder))["faults"]
    assert (fault.check, str(shard) in fault.got) == ("shards", True)


def test_each_damage_is_a_row_and_stops_no_other_check(out: Path, wsi_stain: Run) -> None:
    delete(pyramid(out, OTHER))
    assemble(out, without_two_tiles)
    flip_a_bit(out / "work" / "reference.zarr" / "ref_01.svs" / "0" / "c" / "0" / "0" / "0")
    truncate(out / "training" / "checkpoint.safetensors")
    ended = wsi_stain("verify", out, "-j", 0)
    assert ended.code == 3
    assert sorted(read_faults(out)) == [
        ("nested/odd.tif", "file"),
        (SLIDE, "tissue"),
        ("training/checkpoint.safetensors", "size"),
        ("work/reference.zarr/ref_01.svs", "shards"),
    ]
    assert all(row["expected"] and row["got"] and row["remedy"] for row in rows(out / "verify.csv"))
    assert f"{SLIDE}: tissue: expected" in ended.out


def test_a_slide_without_its_record_is_one_fault(out: Path, wsi_stain: Run) -> None:
    (place(out) / "grid.npz").unlink()
    take_source_away(out, OTHER)
    assert wsi_stain("verify", out, "-j", 0).code == 3
    assert read_faults(out) == [(SLIDE, "record")]


# A summary that does not match the files.


def edit_summary(out: Path, edit: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> None:
    read_faults = rows(out / "summary.csv")
    with open(out / "summary.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(read_faults[0]))
        writer.writeheader()
        writer.writerows(edit(read_faults))


def test_a_row_that_says_something_else(out: Path, wsi_stain: Run) -> None:
    for slide in (SLIDE, OTHER):
        take_source_away(out, slide)
    edit_summary(
        out, lambda read_faults: [row | {"mpp_x": "0.5"} if row["slide"] == SLIDE else row for row in read_faults]
    )
    assert wsi_stain("verify", out, "-j", 0).code == 3
    (row,) = rows(out / "verify.csv")
    assert (row["slide"], row["check"], row["expected"], row["got"]) == (SLIDE, "summary", "mpp_x 0.25", "mpp_x 0.5")


def test_outputs_without_a_row(out: Path, wsi_stain: Run) -> None:
    take_source_away(out, OTHER)
    edit_summary(out, lambda read_faults: [row for row in read_faults if row["slide"] != SLIDE])
    shutil.copy(pyramid(out), out / "slides" / "nested" / "copy.ome.tif")
    assert wsi_stain("verify", out, "-j", 0).code == 3
    assert read_faults(out) == [("slides/nested/copy.ome.tif", "summary"), ("slides/plain.ome.tif", "summary")]


def test_a_dry_run_names_everything_and_writes_nothing(out: Path, wsi_stain: Run) -> None:
    ended = wsi_stain("verify", out, "--dry-run")
    assert (ended.code, (out / "verify.csv").exists()) == (0, False)
    assert {SLIDE, "work/tiles.zarr/plain.tif", "training/checkpoint.safetensors"} <= set(ended.out.splitlines())


def test_no_run_is_an_error(wsi_stain: Run, tmp_path: Path) -> None:
    ended = wsi_stain("verify", tmp_path)
    assert (ended.code, "remedy" in ended.err) == (1, True)
    assert not list(tmp_path.iterdir())


# Pyramids whose receipts hold and whose content does not.


def kept(out: Path, slide: str = SLIDE) -> FinishedSlide:
    finished = load_finished(place(out, slide))
    assert finished is not None
    return finished


def assemble(out: Path, change: Callable[[Pixels], Pixels] = lambda pixels: pixels, **other: Any) -> None:
    """Make SLIDE's pyramid again, receipt included, from its own pixels after a change."""
    finished, output = kept(out), pyramid(out)
    with openslide.OpenSlide(output) as slide:
        pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
    output.unlink()
    block = out / "block"
    write_block(block, np.ascontiguousarray(change(pixels)), finished.grid.kept, JpegConfig())
    assert finished.row.size and finished.row.mpp
    task = StitchTask(
        slide_id=SLIDE,
        size=finished.row.size,
        mpp=finished.row.mpp,
        objective_power=40.0,
        placement=None,
        white=(240, 240, 240),
        icc_profile=None,
        blocks={BlockIndex(0, 0): block},
        jpeg=JpegConfig(),
        provenance={},
        output=output,
        receipt=place(out) / "ome-tiff.json",
        key=finished.key,
    )
    stitch_slide(replace(task, **other))


def checks(out: Path, source: Path | None = None) -> list[str]:
    return [fault.check for fault in verify_slide(task(out, source=source))["faults"]]


def test_assembled_again_from_the_same_pixels_it_is_good(out: Path) -> None:
    assemble(out)
    receipt = verify_slide(task(out))
    assert receipt["faults"] == []
    similarity = receipt["similarity"]
    assert similarity.source
    assert similarity.shift_px < 0.1
    assert similarity.ssim > SSIM_MEAN
    assert similarity.nuclei > NUCLEI
    assert similarity.contrast > LEAST_KEPT


def without_two_tiles(pixels: Pixels) -> Pixels:
    changed = pixels.copy()
    changed[256:512, 256:768] = 240
    return changed


def blur(pixels: Pixels) -> Pixels:
    return np.asarray(gaussian_filter(pixels, (8, 8, 0)))


def without_half_of_the_nuclei(pixels: Pixels) -> Pixels:
    """Dark things in the left half of each tile get the colour of what surrounds them."""
    around = gaussian_filter(pixels.astype(float), (30, 30, 0))
    darkness = around[..., 0] - gaussian_filter(pixels[..., 0].astype(float), 2)
    dark = darkness > np.quantile(darkness, 0.88)
    cover = np.clip(1.5 * gaussian_filter(dark.astype(float), 3), 0, 1)[..., None]
    left = np.arange(pixels.shape[1])[None, :, None] % 256 < 128
    return np.asarray(np.where(left, pixels + cover * (around - pixels), pixels).round(), np.uint8)


def without_chromatin(pixels: Pixels) -> Pixels:
    """Each nucleus gets the mean colour of what is near within it."""
    nuclei = nuclei_mask(pixels[None], 0.25)
    assert nuclei is not None
    weight = nuclei[0][..., None].astype(float)
    mean = gaussian_filter(pixels * weight, (6, 6, 0)) / np.maximum(gaussian_filter(weight, (6, 6, 0)), 1e-6)
    return np.asarray(np.where(nuclei[0][..., None], mean, pixels).round(), np.uint8)


@pytest.mark.parametrize(
    ("change", "check"),
    [
        pytest.param(without_two_tiles, "tissue", id="a region lost its tissue"),
        pytest.param(lambda pixels: np.full_like(pixels, 240), "tissue", id="all of it is glass"),
        pytest.param(np.zeros_like, "tissue", id="all of it is black"),
        pytest.param(lambda pixels: pixels[::-1, ::-1], "picture", id="another slide"),
        pytest.param(lambda pixels: np.roll(pixels, 1, axis=1), "place", id="one pixel beside the source"),
        pytest.param(blur, "structure", id="blurred"),
        pytest.param(without_half_of_the_nuclei, "nuclei", id="half of the nuclei erased"),
        pytest.param(without_chromatin, "chromatin", id="nuclei closed"),
    ],
)
def test_wrong_pixels(out: Path, change: Callable[[Pixels], Pixels], check: str) -> None:
    assemble(out, change)
    assert checks(out) == [check]


def test_nuclei_darker_than_twice_the_reference_s(out: Path) -> None:
    def darken(pixels: Pixels) -> Pixels:
        nuclei = nuclei_mask(pixels[None], 0.25)
        assert nuclei is not None
        cover = gaussian_filter(nuclei[0].astype(float), 1)[..., None]
        return np.asarray((pixels - 100 * cover).clip(0).round(), np.uint8)

    assemble(out, darken)
    faults = [
        verify_slide(replace(task(out), reference=NuclearDetail(contrast=9, dark=dark, luminance=90)))["faults"]
        for dark in (0.0, 1.0)
    ]
    assert [[fault.check for fault in each] for each in faults] == [["chromatin"], []]


@pytest.mark.parametrize(
    ("other", "check"),
    [
        pytest.param({"mpp": Mpp(0.25, 0.2501)}, "mpp", id="resolution"),
        pytest.param({"icc_profile": srgb_profile()}, "icc", id="profile"),
    ],
)
def test_wrong_metadata(out: Path, other: dict[str, Any], check: str) -> None:
    assemble(out, **other)
    assert set(checks(out)) == {check}


def renew_receipt(out: Path) -> None:
    receipt = place(out) / "ome-tiff.json"
    write_receipt(receipt, Receipt(key=journal.read_json(receipt)["key"], product=file_product(pyramid(out))))


def test_the_pyramid_of_another_size(out: Path) -> None:
    shutil.copy(pyramid(out, OTHER), pyramid(out))
    renew_receipt(out)
    assert set(checks(out)) == {"levels"}


def test_no_pyramid_at_all(out: Path) -> None:
    pyramid(out).write_bytes(b"not a TIFF")
    renew_receipt(out)
    assert checks(out) == ["readers"]


def page_tags(path: Path, level: int) -> tuple[Any, Any]:
    with tifffile.TiffFile(path) as tiff:
        tags = tiff.pages[level].tags
        return tags["TileOffsets"], tags["TileByteCounts"]


def test_a_tile_that_cannot_be_decoded(out: Path) -> None:
    offsets, counts = page_tags(pyramid(out), 1)
    with open(pyramid(out), "r+b") as file:
        file.seek(offsets.value[0] + counts.value[0] // 2)
        file.write(bytes(counts.value[0] - counts.value[0] // 2))
    renew_receipt(out)
    (fault,) = verify_slide(task(out))["faults"]
    assert (fault.check, "row 0, column 0" in fault.got) == ("tiles", True)


def test_a_tile_without_bytes(out: Path) -> None:
    _, counts = page_tags(pyramid(out), 0)
    with open(pyramid(out), "r+b") as file:
        file.seek(counts.valueoffset + 4 * 7)
        file.write(bytes(4))
    renew_receipt(out)
    (fault,) = verify_slide(task(out))["faults"]
    assert (fault.check, "row 1, column 2: it has no bytes" in fault.got) == ("tiles", True)


def test_levels_that_only_some_readers_find(out: Path) -> None:
    with tifffile.TiffFile(pyramid(out)) as tiff:
        start, count = tiff.pages[0].offset, len(tiff.pages[0].tags)
    with open(pyramid(out), "r+b") as file:
        file.seek(start + 8 + 20 * count)
        file.write(bytes(8))  # the chain of directories ends here, SubIFDs go on
    renew_receipt(out)
    faults = verify_slide(task(out))["faults"]
    assert {fault.check for fault in faults} == {"levels"}
    assert {fault.got.partition(" by ")[2] for fault in faults} == {"tifffile", "OpenSlide"}


def test_a_level_that_does_not_show_what_the_finer_one_shows(out: Path) -> None:
    offsets, counts = page_tags(pyramid(out), 1)
    with open(pyramid(out), "r+b") as file:
        for tag, width in ((offsets, 8), (counts, 4)):  # the second tile stands in the first one's place
            file.seek(tag.valueoffset)
            file.write(int(tag.value[1]).to_bytes(width, "little"))
    renew_receipt(out)
    assert set(checks(out)) == {"pixels"}


# The source.


def test_without_its_source_and_tiles_a_slide_is_looked_at_as_far_as_it_can_be(out: Path, wsi_stain: Run) -> None:
    take_source_away(out)
    ended = wsi_stain("verify", out, "-j", 0)
    assert (ended.code, "source not found" in ended.out) == (0, True)
    assemble(out, without_two_tiles)
    assert checks(out) == ["tissue"]


def test_slides_may_have_moved_and_other_slides_are_not_taken_for_them(
    study: tuple[Cohort, Path], out: Path, wsi_stain: Run, tmp_path: Path
) -> None:
    take_source_away(out)
    take_source_away(out, OTHER)
    moved = Path(shutil.copytree(study[0].slides, tmp_path / "moved"))
    ended = wsi_stain("verify", out, "-j", 0, "--slides", moved)
    assert (ended.code, "source not found" in ended.out) == (0, False)
    shutil.copy(moved / "nested" / "odd.tif", moved / SLIDE)
    assert wsi_stain("verify", out, "-j", 0, "--slides", moved).code == 3
    assert read_faults(out) == [(SLIDE, "source")]


def test_kept_tiles_stand_for_a_source_that_is_gone(out: Path) -> None:
    row = journal.read_json(place(out) / "row.json")
    row["origin"]["slide"] = None
    journal.write_json(place(out) / "row.json", row)
    assemble(out, blur)
    assert checks(out) == ["structure"]


def test_a_source_that_cannot_be_read_is_a_fault_of_that_slide(out: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.tif").write_bytes(b"not a slide")
    assert checks(out, tmp_path / "broken.tif") == ["source"]


# Other formats.


@pytest.fixture(scope="session")
def formats(study: tuple[Cohort, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of the slides as a pyramid of every format."""
    out, checkpoint = tmp_path_factory.mktemp("formats") / "out", study[1] / "training" / "checkpoint.safetensors"
    kinds = [argument for kind in SUFFIXES if kind not in TABLES for argument in ("-f", kind)]
    config = study[1].parent / "tiny.yaml"
    _run_command("run", study[0].slides / SLIDE, "--checkpoint", checkpoint, "-o", out, "-c", config, "-j", 0, *kinds)
    return out


def product(out: Path, kind: Format) -> Path:
    return out / "slides" / f"plain{SUFFIXES[kind]}"


def verify_damaged(
    formats: Path, tmp_path: Path, kind: Format, damage: Callable[[Path], None], renew: bool
) -> list[Fault]:
    """The faults of a copy with one format damaged, the receipt made to hold on request."""
    out = Path(shutil.copytree(formats, tmp_path / "out"))
    damage(product(out, kind))
    receipt_path = place(out) / f"{kind}.json"
    if renew:
        receipt = journal.read_json(receipt_path)
        write_receipt(receipt_path, receipt | {"product": describe_product(product(out, kind))})
    return list(verify_slide(VerifyTask(place(out), {receipt_path: product(out, kind)}))["faults"])


def test_every_format_is_verified(formats: Path, tmp_path: Path, wsi_stain: Run) -> None:
    out = Path(shutil.copytree(formats, tmp_path / "out"))
    assert wsi_stain("verify", out, "-j", 0).code == 0
    for kind in sorted(set(SUFFIXES) - set(TABLES)):
        file = next(path for path in sorted(product(out, kind).rglob("*")) or [product(out, kind)] if path.is_file())
        flip_a_bit(file)
    assert wsi_stain("verify", out, "-j", 0).code == 3
    assert read_faults(out) == [(SLIDE, "sha256")] * 3


def test_formats_that_a_later_run_did_not_ask_for_are_verified_as_well(
    formats: Path, study: tuple[Cohort, Path], tmp_path: Path, wsi_stain: Run
) -> None:
    out = Path(shutil.copytree(formats, tmp_path / "out"))
    checkpoint, config = study[1] / "training" / "checkpoint.safetensors", study[1].parent / "tiny.yaml"
    again = (
        "run",
        study[0].slides / SLIDE,
        "--checkpoint",
        checkpoint,
        "-o",
        out,
        "-c",
        config,
        "-j",
        0,
        "-f",
        "dicom",
    )
    assert wsi_stain(*again).code == 0
    assert wsi_stain("verify", out, "-j", 0).code == 0
    delete(product(out, "ome-zarr") / "1/c/0/0/0")
    ended = wsi_stain("verify", out, "-j", 0)
    assert (ended.code, read_faults(out)) == (3, [(SLIDE, "size")])
    assert "1/c/0/0/0 is missing" in rows(out / "verify.csv")[0]["got"]


DIRECTORY_DAMAGES: dict[str, tuple[Format, Callable[[Path], None], str]] = {
    "a shard with other bytes": ("ome-zarr", lambda path: flip_a_bit(path / "0/c/0/0/0"), "tiles"),
    "no shard": ("ome-zarr", lambda path: delete(path / "1/c/0/0/0"), "pixels"),
    "no metadata": ("ome-zarr", lambda path: delete(path / "zarr.json"), "readers"),
    "a level less": ("dicom", lambda path: delete(min(path.iterdir(), key=lambda file: file.stat().st_size)), "levels"),
    "a level cut short": ("dicom", lambda path: halve(max(path.iterdir(), key=lambda f: f.stat().st_size)), "tiles"),
}


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(("kind", "damage", "check"), DIRECTORY_DAMAGES.values(), ids=list(DIRECTORY_DAMAGES))
def test_damaged_directories(
    formats: Path, tmp_path: Path, kind: Format, damage: Callable[[Path], None], check: str
) -> None:
    faults = verify_damaged(formats, tmp_path / "a", kind, damage, renew=True)
    assert {fault.check for fault in faults} == {check}
    (fault,) = verify_damaged(formats, tmp_path / "b", kind, damage, renew=False)
    assert fault.check in ("size", "sha256")
