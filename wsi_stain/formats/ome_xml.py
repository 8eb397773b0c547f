"""The OME-XML of a pyramid: size, resolution, objective, provenance. Knows no files or pixels.

It carries no name, date or identifier of the source: slides carry patient data, and two runs shall give equal bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree as ET

from wsi_stain.core.geometry import Mpp, Size

PROVENANCE_NAMESPACE = "wsi-stain/provenance"
"""Namespace of the map annotation that says how a pyramid was made."""

_OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_ROOT_ATTRIBUTES = {
    "xmlns": _OME,
    "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
    "xsi:schemaLocation": f"{_OME} {_OME}/ome.xsd",
    "Creator": "wsi-stain",
}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def ome_xml(size: Size, mpp: Mpp, objective_power: float | None, provenance: Mapping[str, str]) -> bytes:
    """Describe an 8-bit RGB pyramid whose level 0 is the first image of its file.

    The micro sign stands literally: Bio-Formats gives up on an escaped one and reads a plain TIFF instead.

    Args:
        size: Size of level 0, px.
        mpp: Resolution of level 0, um per px.
        objective_power: Nominal magnification, or None when it is not known.
        provenance: How the pixels were made; characters that XML cannot hold are replaced by U+FFFD.

    Returns:
        UTF-8 text of the OME schema 2016-06. Equal arguments give equal bytes.
    """
    root = ET.Element("OME", _ROOT_ATTRIBUTES)
    if objective_power is not None:
        instrument = ET.SubElement(root, "Instrument", ID="Instrument:0")
        ET.SubElement(instrument, "Objective", ID="Objective:0", NominalMagnification=f"{objective_power:g}")
    image = ET.SubElement(root, "Image", ID="Image:0")
    if objective_power is not None:
        ET.SubElement(image, "InstrumentRef", ID="Instrument:0")
        ET.SubElement(image, "ObjectiveSettings", ID="Objective:0")
    _add_pixels(image, size, mpp)
    ET.SubElement(image, "AnnotationRef", ID="Annotation:0")
    _add_provenance(root, provenance)
    return b'<?xml version="1.0" encoding="UTF-8"?>' + ET.tostring(root, encoding="unicode").encode()


def _add_pixels(image: ET.Element, size: Size, mpp: Mpp) -> None:
    attributes = {
        "ID": "Pixels:0",
        "DimensionOrder": "XYCZT",
        "Type": "uint8",
        "SignificantBits": "8",
        "Interleaved": "true",
        "BigEndian": "false",
        "SizeX": str(size.width),
        "SizeY": str(size.height),
        "SizeC": "3",
        "SizeZ": "1",
        "SizeT": "1",
        "PhysicalSizeX": repr(float(mpp.x)),
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": repr(float(mpp.y)),
        "PhysicalSizeYUnit": "µm",
    }
    pixels = ET.SubElement(image, "Pixels", attributes)
    ET.SubElement(pixels, "Channel", ID="Channel:0:0", SamplesPerPixel="3")
    ET.SubElement(pixels, "TiffData", IFD="0", PlaneCount="1")


def _add_provenance(root: ET.Element, provenance: Mapping[str, str]) -> None:
    annotations = ET.SubElement(root, "StructuredAnnotations")
    annotation = ET.SubElement(annotations, "MapAnnotation", ID="Annotation:0", Namespace=PROVENANCE_NAMESPACE)
    value = ET.SubElement(annotation, "Value")
    for key in sorted(provenance):
        ET.SubElement(value, "M", K=_xml_text(key)).text = _xml_text(provenance[key])


def _xml_text(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
