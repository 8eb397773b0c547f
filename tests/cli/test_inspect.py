"""The command `inspect`: the right row for every kind of file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.commands import Run
from tests.support.giant_slide import write_giant
from tests.support.slide_files import Jpeg, write_jpeg_slide, write_slide
from wsi_stain.core.errors import SlideError
from wsi_stain.core.geometry import Size
from wsi_stain.slides.listing.find import find_slides
from wsi_stain.synthetic import LABORATORIES, stain_tissue
from wsi_stain.synthetic.tissue import render_tissue
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.inspect import InspectTask, inspect_slide

COLUMNS = (
    "slide,path,verdict,reason,remedy,remarks,width,height,levels,mpp_x,mpp_y,mpp_origin,objective_power,vendor,"
    "tissue,tiles,suspect,bytes,reader,scanner,white_r,white_g,white_b,white_origin,"
    "hematoxylin_r,hematoxylin_g,hematoxylin_b,eosin_r,eosin_g,eosin_b,"
    "h_nuclei,h_stroma,e_nuclei,e_stroma,lum_nuclei,lum_stroma,blurred,foreign,ink"
)


def rows(path: Path) -> dict[str, dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return {row["slide"]: row for row in csv.DictReader(file)}


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """A usable slide whose pixels are not quite square, glass, no resolution, print resolution, and no slide."""
    folder = tmp_path / "slides"
    folder.mkdir()
    tissue = stain_tissue(render_tissue(Size(601, 433), 0.25, 5), LABORATORIES["other"], 5)
    write_slide(folder / "=usable.tif", [tissue], mpp=(0.25, 0.28))
    write_slide(folder / "glass.tif", [np.full((100, 90, 3), 240, np.uint8)])
    write_slide(folder / "none.tif", [tissue], mpp=None)
    write_slide(folder / "print.tif", [tissue], mpp=25400 / 72)
    (folder / "text.svs").write_text("no slide")
    return folder


def test_every_slide_has_a_row_and_every_fault_a_remedy(slides: Path, wsi_stain: Run, tmp_path: Path) -> None:
    ended = wsi_stain("inspect", slides, "-j", 0, "--csv", tmp_path / "found.csv")
    assert ended.code == 3
    table = ended.out.splitlines()[1:6]
    assert [line.split()[0] for line in table] == ["=usable.tif", "glass.tif", "none.tif", "print.tif", "text.svs"]
    assert [line.rsplit("  ", 1)[-1] for line in table] == [
        *("ok", "empty", "no resolution", "no resolution", "unreadable")
    ]
    assert "=usable.tif: its pixels are not square: 0.25 x 0.28 um/px (openslide)" in ended.out
    assert ended.out.count("--slide-mpp") == 1, "a remedy is told once for all that it helps"
    assert (tmp_path / "found.csv").read_text().splitlines()[0] == COLUMNS
    found = rows(tmp_path / "found.csv")
    usable = found["'=usable.tif"]
    assert (usable["verdict"], usable["width"], usable["height"]) == ("ok", "601", "433")
    assert (float(usable["mpp_x"]), float(usable["mpp_y"])) == pytest.approx((0.25, 0.28))
    assert int(usable["bytes"]) > int(usable["tiles"]) > 0 and usable["reader"] == "openslide"
    assert float(usable["hematoxylin_r"]) > float(usable["eosin_r"]), "stain vectors are told apart"
    assert float(usable["h_nuclei"]) > float(usable["h_stroma"]) > 0
    assert (usable["scanner"], usable["white_origin"]) == ("", "glass")
    assert found["glass.tif"]["h_nuclei"] == "", "what has no tissue has no stain"
    for name in ("none.tif", "print.tif", "text.svs"):
        assert found[name]["reason"].startswith(name)
        assert found[name]["remedy"]
        assert found[name]["tiles"] == ""


def test_what_is_merely_empty_is_no_failure(slides: Path, wsi_stain: Run) -> None:
    assert wsi_stain("inspect", slides / "glass.tif").code == 0


def test_a_slide_lists_resolution_is_used_and_named(slides: Path, wsi_stain: Run, tmp_path: Path) -> None:
    (slides / "list.csv").write_text("slide;mpp\nnone.tif;0,25\n")
    assert wsi_stain("inspect", slides / "list.csv", "--csv", tmp_path / "found.csv").code == 0
    row = rows(tmp_path / "found.csv")["none.tif"]
    assert (float(row["mpp_x"]), row["mpp_origin"]) == (0.25, "slide list")


def test_damage_that_the_thumbnail_does_not_show_is_found(tmp_path: Path) -> None:
    tissue = np.tile(stain_tissue(render_tissue(Size(700, 420), 0.25, 5), LABORATORIES["other"], 5), (5, 6, 1))
    levels = [tissue, tissue[::4, ::4]]  # large enough that the thumbnail is made from level 1 alone

    def inspect_damaged(spoilt: Sequence[int]) -> dict[str, Any]:
        damage = {(0, tile): b"rubbish" for tile in spoilt}
        path = write_jpeg_slide(tmp_path / "x.tif", levels, Jpeg(tile=(256, 256)), spoilt=damage)
        (source,) = find_slides([path])
        return inspect_slide(InspectTask(source, TilingConfig()))

    assert inspect_damaged([])["remarks"] == []
    (remark,) = inspect_damaged([0])["remarks"]
    assert remark.startswith("1 of 32 tiles looked at are lost")
    with pytest.raises(SlideError, match="32 of 32 tiles looked at are lost"):
        inspect_damaged(range(17 * 9))


def test_the_largest_slides_are_looked_at_as_any_other(tmp_path: Path) -> None:
    (source,) = find_slides([write_giant(tmp_path / "giant.tif", Size(150_001, 100_003))])
    facts = inspect_slide(InspectTask(source, TilingConfig()))
    assert (facts["size_l0"], facts["levels"]) == ([150_001, 100_003], 4)
    ellipse = np.pi * 0.3 * 0.2
    assert facts["tissue"] == pytest.approx(ellipse, rel=0.4)
    assert facts["tiles"] == pytest.approx(ellipse * 150_001 * 100_003 / 256**2, rel=0.1)


@pytest.mark.filterwarnings("ignore:get_frame_offsets is deprecated:DeprecationWarning")
def test_real_files(real_data: Path, wsi_stain: Run, tmp_path: Path) -> None:
    assert wsi_stain("inspect", real_data, "-j", 0, "--csv", tmp_path / "found.csv").code == 3
    verdicts = {name.split("/")[1]: row["verdict"] for name, row in rows(tmp_path / "found.csv").items()}
    assert verdicts.pop("test3-TRITC_560.ndpi") in ("empty", "not H&E"), "fluorescence"
    assert verdicts == {
        "AT2_gastric_metaplasia.svs": "ok",
        "CMU-1-Small-Region.jpeg.tiff": "no resolution",
        "CMU-1-Small-Region.svs": "ok",
        "CMU-1-Small-Region.webp.tiff": "no resolution",
        "NanoZoomer_EO1_cropA.svs": "ok",
        "TCGA-CR-7395-01A-01-TS1.svs": "no resolution",
        "boxes.tiff": "no resolution",
        "boxes_dicom.dcm": "empty",
        "broken.svs": "unreadable",
        "dicom_wsic_jpeg.dcm": "ok",
        "small.svs": "empty",
        "unreadable.svs": "unreadable",
    }
