"""One slide file: its levels, and RGB pixels of any level. Knows no resolution.

What a pixel shows depends on its place alone (`levels.own_pixels`); what a level lacks is shown as another level has it
(`levels.reader`), and may be converted to sRGB.

Memory bound: that of `levels.reader`.
"""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.geometry import Region, Size
from wsi_stain.core.icc import srgb_profile
from wsi_stain.core.storage import StoragePath
from wsi_stain.slides.levels.level import list_levels, settle_scales
from wsi_stain.slides.levels.own_pixels import JpegTile, OwnPixels
from wsi_stain.slides.levels.reader import LevelReader, LostPart
from wsi_stain.slides.parts import check_parts, digest_of_parts
from wsi_stain.slides.readers.base import SlideReader
from wsi_stain.slides.readers.choose import open_reader
from wsi_stain.slides.srgb import build_transform, convert, refuse_profile


class SlideFile:
    """An open slide.

    Args:
        path: The file or directory; for formats of many files the one that OpenSlide opens; a Zarr may lie on S3.
        to_srgb: Convert pixels from the file's ICC profile to sRGB; a file without one is taken as sRGB.

    Attributes:
        reader: The library that reads it.
        properties: As OpenSlide gives them, or under its names.
        levels: The levels that can be used, finest first.
        background: RGB where the scanner recorded nothing.
        icc_profile: Of the pixels that `read` returns, or None.
        described: Resolutions that the file's texts state beside OpenSlide's, of level 0.
        objective_power: As those texts state it, or None.
        placement: How level 0 lies on the glass, where the file says so.
        remarks: Doubts about the file, a sentence each.
        tiles_nowhere: How many tiles of level 0 were never written on any level, and how many it has.

    Raises:
        SlideError: Not there, no permission, not a slide, not supported, or its claims do not fit its file.
    """

    def __init__(self, path: StoragePath, to_srgb: bool = False) -> None:
        self.path = path
        check_parts(path)
        with ExitStack() as opened:
            reader = open_reader(path)
            opened.callback(reader.close)
            self._describe(reader)
            self._settle_colours(reader, to_srgb)
            own = OwnPixels(reader)
            opened.callback(own.close)
            self._settle_levels(reader, own)
            self._opened = opened.pop_all()

    def _describe(self, reader: SlideReader) -> None:
        self.reader, self.properties, self.background = reader.name, reader.properties, reader.background
        claims = reader.claims
        self.described, self.objective_power, self.remarks = claims.described, claims.objective_power, claims.remarks
        self.placement = claims.placement

    def _settle_colours(self, reader: SlideReader, to_srgb: bool) -> None:
        self.icc_profile, self._transform = reader.icc_profile, None
        if reader.icc_problem:
            self.remarks += (refuse_profile(self.path, reader.icc_problem, to_srgb),)
        if to_srgb:
            self._transform = build_transform(self.path, self.icc_profile)
            self.icc_profile = srgb_profile()

    def _settle_levels(self, reader: SlideReader, own: OwnPixels) -> None:
        self.levels, unused = settle_scales(self.path, list_levels(reader), reader.claims, own.read)
        self.remarks += unused
        self.tiles_nowhere = own.absent.count_nowhere(self.levels)
        self._own, self._reader = own, LevelReader(self.levels, own, self.background)

    def __enter__(self) -> SlideFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._opened.close()

    def read(
        self,
        level: int,
        region_level: Region,
        repaired: list[LostPart] | None = None,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Read RGB pixels of a level, (height, width, 3), alpha composited on the background.

        Args:
            level: Its number, 0 the finest.
            region_level: Within the level, in its own pixels.
            repaired: Parts that are lost are added here: they are shown as a coarser level has them, or as background
                where none has. Without it what cannot be decoded is an error.
            out: Where the pixels go; by default an array of their own.

        Raises:
            UnreadableError: A part could not be decoded, not even by a fresh handle; or far too many.
            SlideError: The file can no longer be opened.
        """
        if out is None:
            out = np.empty((region_level.height, region_level.width, 3), np.uint8)
        self._reader.read(level, region_level, out, repaired)
        if self._transform is not None:
            convert(out, self._transform)
        return out

    @property
    def jpeg_tile(self) -> Size | None:
        """Size of the plain JPEG tiles of which level 0 consists, px; None where it does not, or is converted."""
        return self._own.tile_size(self.levels[0]) if self._transform is None else None

    def read_jpeg(self, place: Region) -> JpegTile | None:
        """Read a plain JPEG tile of level 0, of a file that has such; None where it is missing or not quite sound."""
        return self._own.read_jpeg(self.levels[0], place)

    def fingerprint(self) -> dict[str, Any]:
        """Return the content's identity: {"size": bytes, "digest": SHA-256 of evenly spaced pieces of all files}."""
        return digest_of_parts(self.path)
