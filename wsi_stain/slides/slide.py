"""A slide as the rest of the system sees it: RGB by region in the working frame. Knows no tissue, stain or store.

The working frame is the slide's level 0 as it is, or resampled on purpose to a resolution the run asks for; then its
pixel (0, 0) starts at level 0's, its pixels measure exactly that resolution, and the last ones may reach over the edge.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wsi_stain.core.arrays import window
from wsi_stain.core.errors import SlideError, UnreadableError
from wsi_stain.core.geometry import Mpp, Region, Size, split_on_grid
from wsi_stain.core.records import StrictRecord
from wsi_stain.core.storage import StoragePath, storage_path
from wsi_stain.slides.claims import name_scanner
from wsi_stain.slides.frame import Grid, is_finer, working_frame
from wsi_stain.slides.levels.own_pixels import JpegTile
from wsi_stain.slides.levels.reader import LostPart
from wsi_stain.slides.remedies import remedy_for
from wsi_stain.slides.resampling import area_average, bicubic, source_span
from wsi_stain.slides.resolution import MPP_RANGE, POWER, objective_power, resolve_mpp
from wsi_stain.slides.slide_file import SlideFile

__all__ = ["Slide", "SlideConfig", "area_average"]

_PIECE_LEVEL = Size(4096, 2048)
_MAX_READ_PIXELS = 2**29
_MAX_REPAIRED = 0.5


class SlideConfig(StrictRecord):
    """Settings by which slides become pixels.

    Attributes:
        mpp: Resample the working frame to this, um per px; None keeps level 0 as it is.
        slide_mpp: Resolution of level 0, um per px, in place of what the file says.
        allow_upsample: Let `mpp` be finer than level 0 (bicubic); detail that was not scanned does not appear.
        icc: `keep` leaves pixels in the scanner's colour space, `srgb` converts by the embedded ICC profile.
    """

    mpp: float | None = Field(default=None, ge=MPP_RANGE[0], le=MPP_RANGE[1])
    slide_mpp: float | None = Field(default=None, gt=0)
    allow_upsample: bool = False
    icc: Literal["keep", "srgb"] = "keep"


class Slide:
    """An open slide; a context manager. Do not pickle it: send its path and open it there.

    Args:
        path: The slide's file (for DICOM any file of the series, for MRXS the .mrxs); the directory or s3:// URL of an
            OME-Zarr.
        config: How its pixels are read.

    Attributes:
        size_l0: Size of level 0, px.
        mpp_l0: Resolution of level 0, um per px.
        mpp_origin: Who says so: '--slide-mpp', or one of `resolution.SOURCES`.
        remarks: Doubts about the resolution and the file, a sentence each.
        objective_power: As the file states it, or None.
        vendor: OpenSlide's name for the format, or for formats that it does not know ours.
        reader: The library that reads it.
        scanner: Maker, model, serial number and ICC profile as far as the file names them; "" where it does not.
        level_count: Levels in the file that can be used.
        placement: How it lies on the glass, where the file says so.
        tiles_nowhere: How many tiles of level 0 the file lacks on every level, and how many it has.
        background: RGB where the scanner recorded nothing.
        icc_profile: The profile of the pixels that `read` returns, or None.

    Raises:
        SlideError: The file cannot be used, or `config.mpp` is finer than level 0.
        MppError: No resolution, or an absurd one.
    """

    def __init__(self, path: str | StoragePath, config: SlideConfig | None = None) -> None:
        self.config = config or SlideConfig()
        self.path = storage_path(path)
        self._file = SlideFile(self.path, to_srgb=self.config.icc == "srgb")
        try:
            self._describe()
        except BaseException:
            self._file.close()
            raise

    def _describe(self) -> None:
        properties = self._file.properties
        if self._file.objective_power and not objective_power(properties):
            properties = {**properties, POWER: f"{self._file.objective_power:g}"}
        resolution = resolve_mpp(self.path, properties, self.config.slide_mpp, self._file.described)
        self.mpp_l0, self.mpp_origin = resolution.mpp, resolution.origin
        self.remarks = (*resolution.remarks, *self._file.remarks)
        self.objective_power = objective_power(properties)
        self.vendor = properties.get("openslide.vendor", "unknown")
        self.reader = self._file.reader
        self.scanner = name_scanner(properties, self._file.icc_profile)
        self.level_count = len(self._file.levels)
        self.placement = self._file.placement
        self.tiles_nowhere = self._file.tiles_nowhere
        self.background = self._file.background
        self.icc_profile = self._file.icc_profile
        self.size_l0 = self._file.levels[0].size
        self._frame = working_frame(self.path, self.size_l0, self.mpp_l0, self.config.mpp, self.config.allow_upsample)

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    @property
    def size(self) -> Size:
        """Width and height of the working frame, px."""
        return self._frame.size

    @property
    def mpp(self) -> Mpp:
        """Resolution of the working frame, um per px."""
        if self.config.mpp is None or self._frame.is_level_0:
            return self.mpp_l0
        return Mpp(self.config.mpp, self.config.mpp)

    @property
    def bounds(self) -> Region:
        """Region that the scanner searched for tissue (`openslide.bounds-*`), else all; working frame, rounded out."""
        try:
            x, y, width, height = (
                int(self._file.properties[f"openslide.bounds-{name}"]) for name in ("x", "y", "width", "height")
            )
        except (KeyError, ValueError):
            return Region(0, 0, *self.size)
        left, top = max(floor(x / self._frame.step_x), 0), max(floor(y / self._frame.step_y), 0)
        right = min(ceil((x + width) / self._frame.step_x), self.size.width)
        bottom = min(ceil((y + height) / self._frame.step_y), self.size.height)
        return Region(left, top, max(right - left, 0), max(bottom - top, 0))

    def read(self, region: Region) -> NDArray[np.uint8]:
        """Read RGB pixels of a region of the working frame.

        Args:
            region: Working frame; may reach beyond the slide.

        Returns:
            (height, width, 3), values 0 to 255; 255 outside the slide. The same pixels as cut from the whole slide.

        Raises:
            SlideError: The pixels cannot be decoded, or the region is beyond any memory.
        """
        return self._read(self._frame, region, None)

    def read_shrunk(self, factor: int, region: Region) -> NDArray[np.uint8]:
        """Read RGB pixels of the working frame shrunk by a whole factor, by area from the best level of the file.

        Args:
            factor: Pixels of the working frame along each side of one of these.
            region: In these pixels; may reach beyond the slide.

        Returns:
            (height, width, 3), values 0 to 255; 255 outside the slide.

        Raises:
            SlideError: The pixels cannot be decoded, or the region is beyond any memory.
        """
        return self._read(self._frame.shrink(factor), region, None)

    def read_shrunk_repaired(self, factor: int, region: Region) -> tuple[NDArray[np.uint8], float]:
        """Read as `read_shrunk` does, of a slide that may be damaged here and there.

        Returns:
            The pixels, and the share of them, 0 to 1, that is lost; these are shown as in `read_repaired`.

        Raises:
            SlideError: The file can no longer be opened, or the region is beyond any memory.
        """
        repaired: list[LostPart] = []
        pixels, read = self._read(self._frame.shrink(factor), region, repaired), self.pixels_read(factor, region)
        return pixels, min(sum(part.region.width * part.region.height for part in repaired) / max(read, 1), 1.0)

    def pixels_read(self, factor: int, region: Region) -> int:
        """Return how many pixels of the file `read_shrunk` reads for a region."""
        grid = self._frame.shrink(factor)
        level = self._file.levels[grid.choose_level(self._file.levels)]
        width, height = region.width * grid.step_x / level.scale_x, region.height * grid.step_y / level.scale_y
        return ceil(width) * ceil(height)

    def read_repaired(self, region: Region) -> tuple[NDArray[np.uint8], bool]:
        """Read as `read` does, of a slide that may be damaged here and there.

        Returns:
            The pixels, and whether some of them are lost: these are shown as the next coarser level has them, enlarged
            at their place, or as background where none has. Tiles that were never written and stand for glass, or
            that no coarser level tells of, are not lost.

        Raises:
            UnreadableError: Far too much cannot be decoded.
            SlideError: The file can no longer be opened, or the region is beyond any memory.
        """
        repaired: list[LostPart] = []
        return self._read(self._frame, region, repaired), bool(repaired)

    @property
    def jpeg_tile(self) -> Size | None:
        """Size of the plain JPEG tiles of which the working frame consists, px; None where it does not."""
        return self._file.jpeg_tile if self._frame.is_level_0 else None

    def read_jpeg(self, place: Region) -> JpegTile | None:
        """Read one of those tiles as it is in the file.

        Args:
            place: Of a tile, in the working frame.

        Returns:
            The tile; None where it is missing or not quite sound, so that `read_repaired` is to be asked.
        """
        return self._file.read_jpeg(place)

    def reason_lost(self, region: Region) -> str:
        """Return why a part of a region is lost, as in `read_repaired`; empty where all of it is there."""
        repaired: list[LostPart] = []
        self._read(self._frame, region, repaired)
        return repaired[0].reason if repaired else ""

    def _read(self, grid: Grid, region: Region, repaired: list[LostPart] | None) -> NDArray[np.uint8]:
        self._refuse_huge(region.width * region.height)
        out = np.empty((region.height, region.width, 3), np.uint8)
        inside = region.intersect(Region(0, 0, *grid.size))
        if inside != region:
            out[:] = 255
        if inside:
            self._read_grid(grid, inside, window(out, region, inside), repaired)
        return out

    def thumbnail(self, mpp: float) -> NDArray[np.uint8]:
        """Read the whole working frame, (h, w, 3), at about a resolution and never finer than the frame.

        Args:
            mpp: Wanted resolution, um per px. The true one along an axis is mpp * size / thumbnail size.

        Raises:
            UnreadableError: Most of it cannot be decoded; less than that is repaired as in `read_repaired`.
        """
        shape = [
            max(1, min(length, round(length * own / mpp))) for length, own in zip(self.size, self.mpp, strict=True)
        ]
        size = Size(*shape)
        self._refuse_huge(size.width * size.height)
        grid = self._frame.resize(size)
        out, repaired = np.empty((size.height, size.width, 3), np.uint8), list[LostPart]()
        self._read_grid(grid, Region(0, 0, *size), out, repaired)
        level = self._file.levels[grid.choose_level(self._file.levels)]
        lost = sum(part.region.width * part.region.height for part in repaired)
        if lost > _MAX_REPAIRED * level.size.width * level.size.height:
            reason = repaired[0].reason
            raise UnreadableError(f"Most of {self.path} cannot be read: {reason}", remedy_for(reason))
        return out

    def fingerprint(self) -> dict[str, Any]:
        """Identify the slide's content: size in bytes and a SHA-256 over evenly spaced pieces of its file(s)."""
        return self._file.fingerprint()

    def _refuse_huge(self, pixels: int) -> None:
        if pixels > _MAX_READ_PIXELS:
            raise SlideError(
                f"{pixels} px of {self.path} were asked for at once, expected at most {_MAX_READ_PIXELS}",
                "Read it in smaller regions, or at a coarser mpp",
            )

    def _read_grid(self, grid: Grid, region: Region, out: NDArray[np.uint8], repaired: list[LostPart] | None) -> None:
        """Fill `out` (height, width, 3) with a region within a grid, piece by piece, so that memory stays flat."""
        if grid.is_level_0:
            self._file.read(0, region, repaired, out)
            return
        number = grid.choose_level(self._file.levels)
        level = self._file.levels[number]
        step_x, step_y = grid.step_x / level.scale_x, grid.step_y / level.scale_y
        piece_size = Size(max(1, floor(_PIECE_LEVEL.width / step_x)), max(1, floor(_PIECE_LEVEL.height / step_y)))
        for piece in split_on_grid(region, piece_size):
            window(out, region, piece)[:] = self._sample(number, step_x, step_y, piece, repaired)

    def _sample(
        self, number: int, step_x: Fraction, step_y: Fraction, piece: Region, repaired: list[LostPart] | None
    ) -> NDArray[np.uint8]:
        """Sample pixels (height, width, 3) of a piece of a grid whose steps are in pixels of level `number`."""
        size_level = self._file.levels[number].size
        finer = is_finer(step_x, step_y)
        margin, sample = (2, bicubic) if finer else (0, area_average)
        first_x, first_y = piece.x * step_x, piece.y * step_y
        left, right = source_span(first_x, step_x, piece.width, margin, size_level.width)
        top, bottom = source_span(first_y, step_y, piece.height, margin, size_level.height)
        pixels = self._file.read(number, Region(left, top, right - left, bottom - top), repaired)
        return sample(pixels, first_x - left, first_y - top, step_x, step_y, piece.width, piece.height)
