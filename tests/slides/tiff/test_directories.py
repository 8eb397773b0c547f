"""What texts in a TIFF say of its resolution and its objective, in the words of several writers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tifffile

from tests.support.slide_files import noise, write_slide
from wsi_stain.core.errors import MppError
from wsi_stain.core.geometry import Mpp, Size
from wsi_stain.slides.slide import Slide
from wsi_stain.slides.tiff.directories import ome_images, read_directories, vendor_text

PIXELS = noise(133, 97)


def ome(x: str, unit: str = "", more: str = "", size: str = 'SizeX="133" SizeY="97"') -> str:
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Instrument ID="I:0"><Objective ID="O:0" NominalMagnification="40"/></Instrument>'
        f'<Image ID="Image:0" Name="a"><ObjectiveSettings ID="O:0"/><Pixels {size} PhysicalSizeX="{x}" {unit}>'
        f'<TiffData IFD="0"/></Pixels></Image>{more}</OME>'
    )


@pytest.mark.parametrize(
    ("text", "mpp"),
    [
        (ome("0.25"), (0.25, 0.25)),
        (ome("0.25", 'PhysicalSizeY="0.26"'), (0.25, 0.26)),
        (ome("252.8", 'PhysicalSizeXUnit="nm"'), (0.2528, 0.2528)),
        (ome("0.00025", 'PhysicalSizeXUnit="mm"'), (0.25, 0.25)),
        (ome("0.25", 'PhysicalSizeXUnit="pixel"'), None),
        (ome("0"), None),
        (ome("rubbish"), None),
    ],
)
def test_ome_xml_states_sizes_in_any_unit(text: str, mpp: tuple[float, float] | None) -> None:
    (image,) = ome_images(text)
    assert image.mpp == (None if mpp is None else pytest.approx(mpp))
    assert (image.name, image.size, image.directory, image.power) == ("a", Size(133, 97), 0, 40)


@pytest.mark.parametrize(
    "text",
    ["", "OME", "<OME", '<!DOCTYPE x [<!ENTITY a "b">]><OME>&a;</OME>', "<OME>" + " " * 2**20 + "</OME>"],
    ids=["nothing", "no text", "broken", "entities", "huge"],
)
def test_what_is_no_ome_xml_says_nothing(text: str) -> None:
    assert ome_images(text) == []


@pytest.mark.parametrize(
    ("text", "mpp", "power"),
    [
        ("Motic V1.0.0 2304x1792|AppMag = 40|MPP = 0.257290", (0.25729, 0.25729), 40),
        ('{"mpp": 0.25, "Magnification": 20}', (0.25, 0.25), 20),
        ("mpp-x: 0.25; mpp-y: 0.26", (0.25, 0.26), None),
        ("Pixel size = 252.8 nm", (0.2528, 0.2528), None),
        ("PixelSize=0.0005 mm\nObjective magnification: 20", (0.5, 0.5), 20),
        ('MicronsPerPixel="0.46"', (0.46, 0.46), None),
        ("comp=3, ramp = 4", None, None),
        ("AppMag = 40", None, 40),
    ],
)
def test_vendors_state_it_in_their_own_words(
    tmp_path: Path, text: str, mpp: tuple[float, float] | None, power: float | None
) -> None:
    (directory,) = read_directories(write_slide(tmp_path / "a.tif", [PIXELS], mpp=None, description=text))
    image = vendor_text(directory)
    assert (image and image.mpp) == (None if mpp is None else pytest.approx(mpp))
    assert (image.power if image else None) == power


@pytest.mark.parametrize(("unit", "pixels"), [("micron", 4), ("um", 4), ("µm", 4), (r"\u00B5m", 4), ("mm", 4000)])
def test_imagej_writes_the_unit_into_the_text(tmp_path: Path, unit: str, pixels: int) -> None:
    text = f"ImageJ=1.54f\nimages=1\nunit={unit}\n".encode()
    tags: Any = {"resolution": (pixels, pixels), "resolutionunit": "NONE", "photometric": "rgb", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, tile=(64, 64), description=text, **tags)
    with Slide(tmp_path / "a.tif") as slide:
        assert slide.mpp_l0 == Mpp(0.25, 0.25)
        assert slide.mpp_origin == "description"


@pytest.mark.parametrize(
    ("text", "origin"),
    [(ome("0.2573"), "ome-xml"), ("Motic V1.0.0|AppMag = 40|MPP = 0.2573", "description")],
    ids=["OME-XML", "a vendor's text"],
)
def test_where_only_a_text_says_it_that_is_taken_and_said(tmp_path: Path, text: str, origin: str) -> None:
    with Slide(write_slide(tmp_path / "a.tif", [PIXELS], mpp=None, description=text)) as slide:
        assert slide.mpp_l0 == (0.2573, 0.2573)
        assert (slide.mpp_origin, slide.objective_power, slide.remarks) == (origin, 40, ())


@pytest.mark.parametrize("text", [ome("0.25").replace('"40"', '"-"'), "MPP = 0.25"], ids=["OME-XML", "a vendor's text"])
def test_a_text_that_contradicts_the_tags_is_refused_with_both(tmp_path: Path, text: str) -> None:
    path = write_slide(tmp_path / "a.tif", [PIXELS], mpp=0.5, description=text)
    with pytest.raises(MppError, match=r"contradicts itself: 0\.5 um/px \(openslide\), and 0\.25 um/px") as caught:
        Slide(path)
    assert "--slide-mpp" in caught.value.remedy


def test_a_text_beats_tags_that_mean_paper(tmp_path: Path) -> None:
    """72 dpi, as many writers put where they know nothing."""
    path = write_slide(tmp_path / "a.tif", [PIXELS], mpp=25400 / 72, description=ome("0.25"))
    with Slide(path) as slide:
        assert (slide.mpp_l0, slide.mpp_origin) == (Mpp(0.25, 0.25), "ome-xml")


def test_what_is_said_of_another_image_does_not_count(tmp_path: Path) -> None:
    text = ome("0.25", size='SizeX="700" SizeY="500"')
    with pytest.raises(MppError, match="does not say"):
        Slide(write_slide(tmp_path / "a.tif", [PIXELS], mpp=None, description=text))
