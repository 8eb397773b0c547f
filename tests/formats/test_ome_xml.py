"""The OME-XML: what readers look for, and text that could break it."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_stain.core.geometry import Mpp, Size
from wsi_stain.formats.ome_xml import PROVENANCE_NAMESPACE, ome_xml

OME = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"
SIZE, MPP = Size(1301, 777), Mpp(0.2528, 0.253)


def test_says_size_and_resolution() -> None:
    pixels = ET.fromstring(ome_xml(SIZE, MPP, 40.0, {})).find(f"{OME}Image/{OME}Pixels")
    assert pixels is not None
    assert (pixels.get("SizeX"), pixels.get("SizeY"), pixels.get("SizeC")) == ("1301", "777", "3")
    assert (pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeY")) == ("0.2528", "0.253")


def test_the_micro_sign_is_literal() -> None:
    assert ome_xml(SIZE, MPP, None, {}).count("µm".encode()) == 2


@pytest.mark.parametrize(("power", "written"), [(40.0, "40"), (20.5, "20.5"), (None, None)])
def test_objective(power: float | None, written: str | None) -> None:
    root = ET.fromstring(ome_xml(SIZE, MPP, power, {}))
    objective = root.find(f"{OME}Instrument/{OME}Objective")
    assert (objective is None) == (written is None)
    assert (root.find(f"{OME}Image/{OME}ObjectiveSettings") is None) == (written is None)
    assert objective is None or objective.get("NominalMagnification") == written


@given(st.dictionaries(st.text(), st.text(), max_size=4))
def test_any_provenance_is_well_formed(provenance: dict[str, str]) -> None:
    root = ET.fromstring(ome_xml(SIZE, MPP, 40.0, provenance))
    entries = root.findall(f"{OME}StructuredAnnotations/{OME}MapAnnotation/{OME}Value/{OME}M")
    assert len(entries) == len(provenance)


def test_provenance_is_kept_and_its_order_does_not_matter() -> None:
    provenance = {"checkpoint": "sha256 <1>", "config": '{"a": "&"}', "a\x00b": "\x1b"}
    first = ome_xml(SIZE, MPP, 40.0, provenance)
    assert first == ome_xml(SIZE, MPP, 40.0, dict(reversed(provenance.items())))
    annotation = ET.fromstring(first).find(f"{OME}StructuredAnnotations/{OME}MapAnnotation")
    assert annotation is not None and annotation.get("Namespace") == PROVENANCE_NAMESPACE
    found = {entry.get("K"): entry.text for entry in annotation.iter(f"{OME}M")}
    assert found == {"checkpoint": "sha256 <1>", "config": '{"a": "&"}', "a\ufffdb": "\ufffd"}
