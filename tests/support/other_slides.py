"""Slides that OpenSlide does not read, or not whole, of known pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import tifffile
import zarr
from numpy.typing import NDArray
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless

from tests.support.slide_files import TILE, Jpeg, encode_tiles

Pixels = NDArray[np.uint8]

_JPEG: dict[str, Any] = {
    "dtype": np.uint8,
    "tile": (TILE, TILE),
    "photometric": "rgb",
    "compression": "jpeg",
    "compressionargs": {"colorspace": "RGB", "outcolorspace": "YCBCR"},
    "subsampling": (1, 1),
    "metadata": None,
}
"""How the levels of all of these are written: as tiles of JPEG."""


def write_ome_tiff(
    path: Path, levels: Sequence[Pixels], mpp: float = 0.5, label: Pixels | None = None, **options: Any
) -> Path:
    """Write an OME-TIFF whose levels are SubIFDs alone, as Bio-Formats does; a label stands before the slide."""
    with tifffile.TiffWriter(path, ome=True) as writer:
        if label is not None:
            writer.write(label, photometric="rgb", tile=(64, 64), metadata={"axes": "YXS", "Name": "label image"})
        side = {"PhysicalSizeX": mpp, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": mpp, "PhysicalSizeYUnit": "µm"}
        settings = {"photometric": "rgb", "tile": (128, 128), "compression": "zlib", **options}
        axes = "SYX" if settings.get("planarconfig") == "separate" else "YXS"
        for number, pixels in enumerate(levels):
            stored = pixels.transpose(2, 0, 1) if axes == "SYX" else pixels
            metadata = {"axes": axes, "Name": "slide", **side} if number == 0 else None
            place = {"subifds": len(levels) - 1} if number == 0 else {"subfiletype": 1}
            writer.write(np.ascontiguousarray(stored), metadata=metadata, **place, **settings)
    return path


def write_ome_zarr(
    path: Any, levels: Sequence[Pixels], mpp: float | None = 0.5, version: str = "0.5", **omero: Any
) -> Any:
    """Write an OME-Zarr of axes t, c, z, y, x: version 0.4 on Zarr 2, 0.5 on Zarr 3 in shards.

    Args:
        path: A directory, or a store of zarr's.
        levels: (h, w, channels) each, finest first, of any dtype.
        mpp: um per px; None leaves the unit out.
        version: Of NGFF.
        omero: What the attribute `omero` holds.
    """
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    unit = {"unit": "micrometer"} if mpp else {}
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}, {"name": "z", "type": "space"}]
    axes += [{"name": name, "type": "space", **unit} for name in "yx"]
    datasets = []
    for number, pixels in enumerate(levels):
        values, step = pixels.transpose(2, 0, 1)[None, :, None], (mpp or 1.0) * 2**number
        shards = {} if version == "0.4" else {"shards": (1, values.shape[1], 1, 512, 512)}
        array = group.create_array(
            str(number), shape=values.shape, dtype=values.dtype, chunks=(1, 1, 1, 128, 128), **shards
        )
        array[:] = values
        scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0, step, step]}]
        datasets.append({"path": str(number), "coordinateTransformations": scale})
    multiscales = [{"axes": axes, "datasets": datasets, "version": version}]
    ngff: dict[str, Any] = {"multiscales": multiscales, **({"omero": omero} if omero else {})}
    group.attrs.update(ngff if version == "0.4" else {"ome": {"version": version, **ngff}})
    return path


def write_qptiff(path: Path, levels: Sequence[Pixels], mpp: float = 0.5) -> Path:
    """Write a bright-field QPTIFF as PerkinElmer's scanners do: a thumbnail stands between level 0 and the others."""
    unit = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER", "software": "PerkinElmer-QPI"}
    options: dict[str, Any] = {"photometric": "rgb", "compression": "zlib", "metadata": None, **unit}
    kinds = ["FullResolution", *["ReducedResolution"] * (len(levels) - 1)]
    text = "<PerkinElmer-QPI-ImageDescription><ImageType>{}</ImageType></PerkinElmer-QPI-ImageDescription>"
    with tifffile.TiffWriter(path) as writer:
        for number, (kind, pixels) in enumerate(zip(kinds, levels, strict=True)):
            reduced = {"subfiletype": 1} if number else {}
            writer.write(pixels, tile=(256, 256), description=text.format(kind), **reduced, **options)
            if number == 0:
                small = np.ascontiguousarray(pixels[::8, ::8])
                writer.write(small, description=text.format("Thumbnail"), rowsperstrip=64, **options)
    return path


def to_jpeg2000(folder: Path) -> None:
    """Code the frames of a DICOM slide in JPEG 2000 instead, reversibly, as YBR_RCT."""
    for path in folder.glob("*.dcm"):
        file = pydicom.dcmread(path)
        frames = [
            imagecodecs.jpeg8_decode(frame)
            for frame in generate_frames(file.PixelData, number_of_frames=int(file.NumberOfFrames))
        ]
        coded = [
            imagecodecs.jpeg2k_encode(frame, codecformat="j2k", reversible=True, level=0, mct=True) for frame in frames
        ]
        file.file_meta.TransferSyntaxUID = JPEG2000Lossless
        file.PhotometricInterpretation, file.PixelData = "YBR_RCT", encapsulate(coded)
        for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            if name in file:
                del file[name]
        file.save_as(path)


def write_philips(
    path: Path, levels: Sequence[Pixels], unwritten: Mapping[int, Sequence[int]], mpp: float = 0.25
) -> Path:
    """Write a Philips TIFF as OpenSlide knows it: images of whole tiles, levels by the spacing in its XML.

    Args:
        path: Where to.
        levels: (h, w, 3) each, finest first, each half the one before.
        unwritten: By level the row-major numbers of tiles of length 0.
        mpp: um per px of level 0.
    """

    def attribute(name: str, tag: str, kind: str, value: str) -> str:
        group, element = tag.split(",")
        return f'<Attribute Name="{name}" Group="0x{group}" Element="0x{element}" PMSVR="{kind}">{value}</Attribute>'

    def array(name: str, tag: str, items: str) -> str:
        return attribute(name, tag, "IDataObjectArray", f"<Array>{items}</Array>")

    def spacing(number: int) -> str:
        side = f'"{mpp * 2**number / 1000}"'
        return attribute("DICOM_PIXEL_SPACING", "0028,0030", "IDoubleArray", f"{side} {side}")

    representations = "".join(
        f'<DataObject ObjectType="PixelDataRepresentation">{spacing(number)}'
        + attribute("PIIM_PIXEL_DATA_REPRESENTATION_NUMBER", "1001,8B02", "IUInt16", str(number))
        + "</DataObject>"
        for number in range(len(levels))
    )
    scanned = (
        '<DataObject ObjectType="DPScannedImage">'
        + attribute("PIM_DP_IMAGE_TYPE", "301D,1004", "IString", "WSI")
        + spacing(0)
        + array("PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE", "1001,8B01", representations)
        + "</DataObject>"
    )
    description = (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        + attribute("DICOM_MANUFACTURER", "0008,0070", "IString", "PHILIPS")
        + array("PIM_DP_SCANNED_IMAGES", "301D,1003", scanned)
        + "</DataObject>"
    )
    with tifffile.TiffWriter(path) as writer:
        for number, pixels in enumerate(levels):
            height, width = (-(-length // TILE) * TILE for length in pixels.shape[:2])
            writer.write(
                iter(_spoil(pixels, unwritten.get(number, ()))),
                shape=(height, width, 3),
                subfiletype=1 if number else 0,
                description=f"Level {number}" if number else description,
                software="Philips DP v1.0",
                **_JPEG,
            )
    return path


def write_leica(
    path: Path, levels: Sequence[Pixels], unwritten: Mapping[int, Sequence[int]], mpp: float = 0.25
) -> Path:
    """Write a Leica SCN of one area and a macro image around it; see `write_philips`."""
    nm, (height, width) = round(1000 * mpp), levels[0].shape[:2]
    whole = f'sizeX="{(width + TILE) * nm}" sizeY="{(height + TILE) * nm}"'

    def image(name: str, side: str, view: str, objective: int, directories: Mapping[int, Pixels]) -> str:
        dimensions = "".join(
            f'<dimension r="{level}" ifd="{number}" sizeX="{pixels.shape[1]}" sizeY="{pixels.shape[0]}"/>'
            for level, (number, pixels) in enumerate(directories.items())
        )
        return (
            f'<image name="{name}" uuid="{name}"><creationDate>2020-01-01</creationDate>'
            f'<device model="Leica SCN400" version="1"/><pixels {side}>{dimensions}</pixels>'
            f'<view {view} offsetX="0" offsetY="0"/><scanSettings><objectiveSettings><objective>{objective}</objective>'
            "</objectiveSettings><illuminationSettings><numericalAperture>0.65</numericalAperture>"
            "<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"
        )

    macro, count = np.full((TILE, TILE, 3), 240, np.uint8), len(levels)
    side, area = f'sizeX="{width}" sizeY="{height}"', f'sizeX="{width * nm}" sizeY="{height * nm}"'
    description = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection name="c" uuid="c" {whole}><barcode>MQ==</barcode>'
        + image("macro", f'sizeX="{TILE}" sizeY="{TILE}"', whole, 1, {count: macro})
        + image("slide", side, area, 40, dict(enumerate(levels)))
        + "</collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for number, pixels in enumerate([*levels, macro]):
            writer.write(
                iter(_spoil(pixels, unwritten.get(number, ()))),
                shape=pixels.shape,
                description=None if number else description,
                resolution=(1e4 / mpp / 2**number,) * 2,
                resolutionunit="CENTIMETER",
                software=False,
                **_JPEG,
            )
    return path


def write_trestle(
    path: Path, levels: Sequence[Pixels], unwritten: Mapping[int, Sequence[int]], mpp: float = 0.25
) -> Path:
    """Write a Trestle TIFF without overlaps, whose resolution tags hold um per px; see `write_philips`."""
    with tifffile.TiffWriter(path) as writer:
        for number, pixels in enumerate(levels):
            writer.write(
                iter(_spoil(pixels, unwritten.get(number, ()))),
                shape=pixels.shape,
                description="Background Color=FFFFFF;Objective Power=40;OverlapsXY=" + " 0 0" * len(levels),
                resolution=(mpp * 2**number,) * 2,
                resolutionunit="NONE",
                software="MedScan",
                **_JPEG,
            )
    return path


def write_ventana(
    path: Path, levels: Sequence[Pixels], unwritten: Mapping[int, Sequence[int]], mpp: float = 0.25
) -> Path:
    """Write a Ventana BIF of one area whose tiles do not overlap, after a label of one tile; see `write_philips`.

    OpenSlide makes it as large as its tiles.
    """
    rows, columns = (-(-length // TILE) for length in levels[0].shape[:2])

    def number(row: int, column: int) -> int:
        """Count a tile: from 1, bottom to top, every other row from the right."""
        up = rows - 1 - row
        return up * columns + (columns - 1 - column if up % 2 else column) + 1

    def joint(direction: str, one: int, other: int) -> str:
        tiles = f'Tile1="{one}" Tile2="{other}" OverlapX="0" OverlapY="0"'
        return f'<TileJointInfo FlagJoined="1" Confidence="100" Direction="{direction}" {tiles}/>'

    joints = [joint("RIGHT", number(r, c), number(r, c + 1)) for r in range(rows) for c in range(columns - 1)]
    joints += [joint("UP", number(r, c), number(r - 1, c)) for r in range(1, rows) for c in range(columns)]
    area = f'AOIScanned="1" AOIIndex="0" NumRows="{rows}" NumCols="{columns}" Width="{TILE}" Height="{TILE}"'
    encoded = (
        f'<EncodeInfo Ver="2"><SlideStitchInfo><ImageInfo {area} Pos-X="0" Pos-Y="0">{"".join(joints)}</ImageInfo>'
        '</SlideStitchInfo><AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
    )
    scanned = f'<iScan Magnification="40" ScanRes="{mpp}" Z-layers="1" ScannerModel="made"/>'
    texts = [("Label Image", scanned), ("level=0 mag=40 quality=85", encoded)]
    texts += [(f"level={level} mag={40 / 2**level:g} quality=85", "") for level in range(1, len(levels))]
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for level, (pixels, (text, xml)) in enumerate(zip([levels[-1][:TILE, :TILE], *levels], texts, strict=True), -1):
            padding = [(0, -length % TILE) for length in pixels.shape[:2]]
            padded = np.pad(pixels, [*padding, (0, 0)], mode="edge")
            writer.write(
                iter(_spoil(padded, unwritten.get(level, ()))),
                shape=padded.shape,
                description=text,
                extratags=[(700, "B", len(xml), xml.encode(), True)] if xml else [],
                software=False,
                **_JPEG,
            )
    return path


def _spoil(pixels: Pixels, unwritten: Sequence[int]) -> list[bytes]:
    """The tiles of a level as JPEG files, those that were never written of length 0."""
    tiles = encode_tiles(pixels, Jpeg(subsampling="444"))
    return [b"" if number in unwritten else tile for number, tile in enumerate(tiles)]
