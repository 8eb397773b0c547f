"""Small slides with chosen properties, for the tests of reading: lossless ones, of known pixels, and ones of JPEG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

TILE = 64


def noise(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random pixels (height, width, 3) with some structure at every scale."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 120, width)[None, :, None] + np.linspace(0, 60, height)[:, None, None]
    return np.asarray(ramp + rng.integers(0, 70, (height, width, 3)), np.uint8)


def shrink(pixels: NDArray[np.uint8], factor: int, mode: str = "floor") -> NDArray[np.uint8]:
    """A level as scanners make it: means of factor x factor, the odd rest dropped (floor) or padded (ceil)."""
    height, width = pixels.shape[:2]
    if mode == "ceil":
        pixels = np.pad(pixels, ((0, -height % factor), (0, -width % factor), (0, 0)), mode="edge")
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    boxes = pixels[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    return np.asarray(np.rint(boxes.mean(axis=(1, 3))), np.uint8)


def write_slide(
    path: Path,
    levels: Sequence[NDArray[np.uint8]],
    mpp: float | tuple[float, float] | None = 0.25,
    aperio: str | None = None,
    holes: Sequence[int] = (),
    **options: Any,
) -> Path:
    """Write a tiled pyramid that OpenSlide opens.

    Args:
        path: Where to.
        levels: (h, w, 3) each, finest first.
        mpp: Goes into the resolution tags, um per px; None leaves the tags out.
        aperio: Fields of an Aperio description, such as "AppMag = 40|MPP = 0.25"; None writes a generic TIFF.
        holes: Tiles of level 0, row-major, that are left out.
        options: For tifffile, such as compression and iccprofile.
    """
    x, y = (mpp, mpp) if isinstance(mpp, (int, float)) else mpp or (None, None)
    tags: dict[str, Any] = {"resolution": (1e4 / x, 1e4 / y), "resolutionunit": "CENTIMETER"} if x and y else {}
    with tifffile.TiffWriter(path) as writer:
        for number, pixels in enumerate(levels):
            height, width = pixels.shape[:2]
            if aperio is not None:
                tags["description"] = f"Aperio Image Library v1.0\r\n{width}x{height} ({TILE}x{TILE})|{aperio}"
            writer.write(
                _tiles(pixels, holes if number == 0 else ()),
                shape=pixels.shape,
                dtype=np.uint8,
                photometric="rgb",
                tile=(TILE, TILE),
                subfiletype=1 if number else 0,
                metadata=None,
                software=False,
                **{"compression": "zlib", **options, **tags},
            )
    return path


class Jpeg(NamedTuple):
    """How a slide's tiles are coded.

    Attributes:
        tile: Width and height of a tile, px.
        space: `YCBCR`, or `RGB` as Aperio writes it: no transform, no markers.
        subsampling: Of the colour channels: 444, 422 or 420.
        shared_tables: Tables in the directory (JPEGTables) instead of in each tile.
        aperio: An Aperio description instead of a generic TIFF.
    """

    tile: tuple[int, int] = (TILE, TILE)
    space: str = "YCBCR"
    subsampling: str = "420"
    shared_tables: bool = False
    aperio: bool = False


def write_jpeg_slide(
    path: Path,
    levels: Sequence[NDArray[np.uint8]],
    jpeg: Jpeg,
    mpp: float = 0.25,
    spoilt: Mapping[tuple[int, int], bytes] | None = None,
    **options: Any,
) -> Path:
    """Write a pyramid of JPEG tiles that OpenSlide opens.

    Args:
        path: Where to.
        levels: (h, w, 3) each, finest first.
        jpeg: How tiles are coded.
        mpp: um per px of level 0.
        spoilt: What stands in the file instead of a tile, by level and row-major number.
        options: For tifffile, such as bigtiff and iccprofile.
    """
    with tifffile.TiffWriter(path, bigtiff=options.pop("bigtiff", False)) as writer:
        for number, pixels in enumerate(levels):
            height, width = pixels.shape[:2]
            tiles, tables = encode_tiles(pixels, jpeg), None
            if jpeg.shared_tables:
                tables, tiles = _share_tables(tiles)
            for (level, index), content in (spoilt or {}).items():
                if level == number:
                    tiles[index] = content
            tags: dict[str, Any] = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
            if jpeg.aperio:
                tags = {"description": f"Aperio Image Library v1.0\r\n{width}x{height}|AppMag = 40|MPP = {mpp}"}
            writer.write(
                iter(tiles),
                shape=pixels.shape,
                dtype=np.uint8,
                photometric="rgb",
                compression="jpeg",
                compressionargs={"colorspace": "RGB", "outcolorspace": jpeg.space},
                subsampling={"444": (1, 1), "422": (2, 1), "420": (2, 2)}[jpeg.subsampling],
                jpegtables=tables,
                tile=jpeg.tile[::-1],
                subfiletype=1 if number else 0,
                metadata=None,
                software=False,
                **{**tags, **options},
            )
    return path


def encode_tiles(pixels: NDArray[np.uint8], jpeg: Jpeg) -> list[bytes]:
    """The tiles of a level as JPEG files, row by row."""
    subsampling = jpeg.subsampling if jpeg.space == "YCBCR" else None
    options = {"level": 85, "colorspace": "RGB", "outcolorspace": jpeg.space, "subsampling": subsampling}
    return [imagecodecs.jpeg8_encode(np.ascontiguousarray(tile), **options) for tile in _tiles(pixels, (), jpeg.tile)]


def _share_tables(tiles: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """Take the tables (DQT, DHT) out of JPEG files, where they must all be the same; the rest as a file of its own."""
    cut = [_without_tables(tile) for tile in tiles]
    assert len({tables for tables, _ in cut}) == 1
    return b"\xff\xd8" + cut[0][0] + b"\xff\xd9", [b"\xff\xd8" + rest for _, rest in cut]


def _without_tables(tile: bytes) -> tuple[bytes, bytes]:
    tables, rest, at = b"", b"", 2
    while tile[at + 1] != 0xDA:  # SOS, after which the scan comes
        size = 2 + int.from_bytes(tile[at + 2 : at + 4])
        segment = tile[at : at + size]
        tables, rest = (tables + segment, rest) if tile[at + 1] in (0xDB, 0xC4) else (tables, rest + segment)
        at += size
    return tables, rest + tile[at:]


def _tiles(
    pixels: NDArray[np.uint8], holes: Sequence[int], tile: tuple[int, int] = (TILE, TILE)
) -> Iterator[NDArray[np.uint8] | None]:
    (height, width), (across, down) = pixels.shape[:2], tile
    padded = np.pad(pixels, ((0, -height % down), (0, -width % across), (0, 0)), mode="edge")
    places = [(y, x) for y in range(0, height, down) for x in range(0, width, across)]
    for number, (y, x) in enumerate(places):
        yield None if number in holes else padded[y : y + down, x : x + across]
