"""Small slides with chosen properties, for the tests of reading. Every pixel is known: compression is lossless."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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


def _tiles(pixels: NDArray[np.uint8], holes: Sequence[int]) -> Iterator[NDArray[np.uint8] | None]:
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % TILE), (0, -width % TILE), (0, 0)), mode="edge")
    places = [(y, x) for y in range(0, height, TILE) for x in range(0, width, TILE)]
    for number, (y, x) in enumerate(places):
        yield None if number in holes else padded[y : y + TILE, x : x + TILE]
