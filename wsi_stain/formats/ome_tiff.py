"""The bytes of the hybrid OME-TIFF: a BigTIFF whose levels stand in the main IFD chain *and* as SubIFDs; its OME-XML.

    header -> glass tile, tiles in any order ... IFD n-1 ... IFD 1, IFD 0 (its SubIFDs tag lists 1 to n-1)
                                                  ^--- next ---'^--'

OpenSlide and libvips walk the chain, Bio-Formats and QuPath the SubIFDs, tifffile both. Directories are written
coarsest first, so that every pointer is known when it is written; only the header is patched at the end. Otherwise the
file is written front to back.

Tiles are complete YCbCr JPEG streams, copied as they are. Tag 530 (YCbCrSubSampling) is (2, 2) for 4:2:0, and left
out on purpose for 4:4:4: its only right value, (1, 1), makes Bio-Formats show pink tissue (ome/bioformats#2811), and
libtiff finds the value in the stream. A tile that is never put is glass; all of these share one stream.

The OME-XML says size, resolution, objective and provenance. It carries no name, date or identifier of the source:
slides carry patient data, and two runs shall give equal bytes.

Memory: 12 bytes per tile, 3.6 MB for a slide of 150,000 x 100,000 px. Knows no slides or blocks.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import BinaryIO, NamedTuple
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.geometry import TILE, Mpp, Size, TileIndex, grid_shape

_SHORT, _LONG, _RATIONAL, _UNDEFINED, _ASCII, _LONG8, _IFD8 = 3, 4, 5, 7, 2, 16, 18
_WIDTH_OF_KIND = {_ASCII: 1, _SHORT: 2, _LONG: 4, _RATIONAL: 8, _UNDEFINED: 1, _LONG8: 8, _IFD8: 8}
_HEADER = struct.Struct("<2sHHHQ")
_FIRST_IFD_AT = 8
_JPEG, _YCBCR, _CONTIGUOUS, _CENTIMETRE, _REDUCED_IMAGE = 7, 6, 1, 3, 1
_UM_PER_CM = 10_000


class PyramidTiff:
    """Writes one pyramid: put tiles in any order, then finish.

    Args:
        file: An empty file, open for writing and seeking.
        sizes: Sizes of all levels, finest first.
        glass: JPEG stream of the tile that stands wherever no tile is put.
        subsampling: Chroma subsampling of all tiles, 444 or 420.
    """

    def __init__(self, file: BinaryIO, sizes: Sequence[Size], glass: bytes, subsampling: int = 444) -> None:
        self._file = file
        self._sizes = tuple(sizes)
        self._chroma = [_shorts(530, 2, 2)] if subsampling == 420 else []
        self._end = 0
        self._append(_HEADER.pack(b"II", 43, 8, 0, 0))
        at = self._append(glass)
        self._offsets = [np.full(grid_shape(size), at, "<u8") for size in self._sizes]
        self._lengths = [np.full(grid_shape(size), len(glass), "<u4") for size in self._sizes]

    def put(self, level: int, tile: TileIndex, jpeg: bytes) -> None:
        """Append one tile of 256 x 256 px: a complete JPEG stream, YCbCr."""
        self._offsets[level][tile] = self._append(jpeg)
        self._lengths[level][tile] = len(jpeg)

    def put_grid(self, level: int, first: TileIndex, lengths: NDArray[np.int64], jpegs: memoryview) -> None:
        """Append the tiles of a part of a level, all at once.

        Args:
            level: Which level.
            first: The part's tile of least row and column.
            lengths: Bytes of each tile's stream, (rows, cols); 0 where none is put.
            jpegs: The streams, row-major, without gaps.
        """
        ends = self._append(jpegs) + np.cumsum(lengths).reshape(lengths.shape)
        rows, cols = lengths.shape
        part, there = np.s_[first.row : first.row + rows, first.col : first.col + cols], lengths > 0
        self._offsets[level][part][there] = (ends - lengths)[there]
        self._lengths[level][part][there] = lengths[there]

    def finish(self, mpp: Mpp, ome_xml: bytes, icc_profile: bytes | None = None) -> None:
        """Write the directories.

        Args:
            mpp: Resolution of level 0, um per px.
            ome_xml: The image description, UTF-8.
            icc_profile: What the pixel values mean, or None when that is not known.
        """
        following, coarser = 0, list[int]()
        for level in reversed(range(len(self._sizes))):
            fields = self._level_fields(level, Mpp(mpp.x * 2**level, mpp.y * 2**level))
            if level == 0:
                fields += _base_fields(ome_xml, coarser, icc_profile)
            following = self._write_directory(fields, following)
            coarser.insert(0, following)
        self._file.seek(_FIRST_IFD_AT)
        self._file.write(struct.pack("<Q", following))

    def _level_fields(self, level: int, mpp: Mpp) -> list[_Field]:
        return [
            _longs(254, _REDUCED_IMAGE if level else 0),
            _longs(256, self._sizes[level].width),
            _longs(257, self._sizes[level].height),
            _shorts(258, 8, 8, 8),
            _shorts(259, _JPEG),
            _shorts(262, _YCBCR),
            _shorts(277, 3),
            _per_centimetre(282, mpp.x),
            _per_centimetre(283, mpp.y),
            _shorts(284, _CONTIGUOUS),
            _shorts(296, _CENTIMETRE),
            _longs(322, TILE),
            _longs(323, TILE),
            _Field(324, _LONG8, self._offsets[level].tobytes()),
            _Field(325, _LONG, self._lengths[level].tobytes()),
            *self._chroma,
        ]

    def _write_directory(self, fields: Sequence[_Field], following: int) -> int:
        """Write a directory after the values that do not fit into it; returns its offset."""
        entries = [self._entry(field) for field in sorted(fields)]
        return self._append_aligned(struct.pack("<Q", len(entries)) + b"".join(entries) + struct.pack("<Q", following))

    def _entry(self, field: _Field) -> bytes:
        value = field.value
        if len(value) > 8:
            value = struct.pack("<Q", self._append_aligned(value))
        count = len(field.value) // _WIDTH_OF_KIND[field.kind]
        return struct.pack("<HHQ", field.tag, field.kind, count) + value.ljust(8, b"\0")

    def _append_aligned(self, content: bytes) -> int:
        self._append(bytes(-self._end % 8))
        return self._append(content)

    def _append(self, content: bytes | memoryview) -> int:
        at = self._end
        self._file.write(content)
        self._end += len(content)
        return at


class _Field(NamedTuple):
    """One TIFF tag: its number, the type of its values, and the values' little-endian bytes."""

    tag: int
    kind: int
    value: bytes


def _base_fields(ome_xml: bytes, coarser: Sequence[int], icc_profile: bytes | None) -> list[_Field]:
    fields = [_Field(270, _ASCII, ome_xml + b"\0")]
    if coarser:
        fields.append(_Field(330, _IFD8, struct.pack(f"<{len(coarser)}Q", *coarser)))
    if icc_profile:
        fields.append(_Field(34675, _UNDEFINED, icc_profile))
    return fields


def _shorts(tag: int, *values: int) -> _Field:
    return _Field(tag, _SHORT, struct.pack(f"<{len(values)}H", *values))


def _longs(tag: int, *values: int) -> _Field:
    return _Field(tag, _LONG, struct.pack(f"<{len(values)}L", *values))


def _per_centimetre(tag: int, um_per_px: float) -> _Field:
    """Write pixels per centimetre as a rational; exact to 1e-8 for any resolution a slide can have."""
    resolution = (_UM_PER_CM / Fraction(um_per_px)).limit_denominator(10_000)
    return _Field(tag, _RATIONAL, struct.pack("<2L", resolution.numerator, resolution.denominator))


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
