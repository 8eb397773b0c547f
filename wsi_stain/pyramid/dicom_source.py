"""The hybrid OME-TIFF as wsidicomizer reads sources: tiles by their bytes. Imported only where DICOM is written.

wsidicomizer's own reader of OME-TIFF refuses levels whose width is not within 0.7 % of level 0's by a power of two, as
the last levels of narrow slides are, and needs the library libturbojpeg. This one knows that every level is a halving.

Memory bound: the offsets of the TIFF's tiles, and one tile.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import tifffile
from PIL import Image
from pydicom.uid import JPEGBaseline8Bit
from wsidicom.codec import LossyCompressionIsoStandard
from wsidicom.geometry import Point, Size, SizeMm
from wsidicom.metadata import Equipment, LossyCompression, Objectives, OpticalPath, Pyramid
from wsidicom.metadata import Image as ImageMetadata
from wsidicomizer.dicomizer_source import DicomizerSource
from wsidicomizer.image_data import BaseDicomizerImageData
from wsidicomizer.metadata import WsiDicomizerMetadata

from wsi_stain import __version__
from wsi_stain.core.geometry import TILE, Mpp

_UM_PER_MM = 1000
_STANDARD = LossyCompressionIsoStandard.transfer_syntax_to_iso(JPEGBaseline8Bit)
_PATH, _FOCUS = "0", 0.0
"""One optical path, one focal plane."""


class Level(BaseDicomizerImageData):  # type: ignore[misc]  # wsidicom ships no types
    """One level.

    Args:
        page: Its page of the TIFF.
        encoder: What wsidicomizer would encode with; only asked for the pixels' format.
        spacing: Side of a pixel, mm.
    """

    transfer_syntax = JPEGBaseline8Bit
    tile_size = Size(TILE, TILE)
    samples_per_pixel = 3
    photometric_interpretation = "YBR_FULL_422"  # what DICOM calls all YCbCr in baseline JPEG (PS3.5, 8.2.1)
    thread_safe = True
    transcoder = None

    def __init__(self, page: Any, encoder: Any, spacing: SizeMm) -> None:
        super().__init__(encoder)
        self._page, self._spacing = page, spacing

    @property
    def image_size(self) -> Size:
        """Width and height, px."""
        return Size(self._page.imagewidth, self._page.imagelength)

    @property
    def pixel_spacing(self) -> SizeMm:
        """Side of a pixel, mm."""
        return self._spacing

    @property
    def imaged_size(self) -> SizeMm:
        """Width and height, mm."""
        return self._spacing * self.image_size

    @property
    def lossy_compression(self) -> list[Any]:
        """Method and ratio by which the pixels were compressed."""
        ratio = self.image_size.area * 3 / sum(self._page.databytecounts)
        return [LossyCompression(_STANDARD, round(ratio, 2))]

    def get_encoded_tile(self, tile: Point, z: float, path: str) -> bytes:
        """Return the JPEG stream of a tile."""
        index = tile.y * self.tiled_size.width + tile.x
        file = self._page.parent.filehandle
        with file.lock:
            file.seek(self._page.dataoffsets[index])
            return bytes(file.read(self._page.databytecounts[index]))

    def get_decoded_tile(self, tile_point: Point, z: float, path: str) -> Image.Image:
        """Return the pixels of a tile."""
        return Image.open(io.BytesIO(self.get_encoded_tile(tile_point, z, path)))


def make_source(mpp: Mpp, icc_profile: bytes, objective_power: float | None) -> type[DicomizerSource]:
    """Make a source as `WsiDicomizer.open` takes it, for one pyramid.

    Args:
        mpp: Resolution of level 0, um per px.
        icc_profile: Profile of the pixels' colour space.
        objective_power: Nominal magnification, or None when it is not known.
    """

    class Source(DicomizerSource):  # type: ignore[misc]
        def __init__(self, filepath: Path, encoder: Any, *rest: Any, **named: Any) -> None:
            self._tiff = tifffile.TiffFile(filepath)
            super().__init__(filepath, encoder, *rest, **named)

        def close(self) -> None:
            self._tiff.close()

        @staticmethod
        def is_supported(path: Path) -> bool:
            return True

        @property
        def base_metadata(self) -> WsiDicomizerMetadata:
            optics = OpticalPath(
                identifier=_PATH, icc_profile=icc_profile, objective=Objectives(objective_power=objective_power)
            )
            equipment = Equipment("wsi-stain", "wsi-stain", software_versions=[__version__])
            return WsiDicomizerMetadata(equipment=equipment, pyramid=Pyramid(ImageMetadata(), [optics]))

        @property
        def pyramid_levels(self) -> dict[tuple[int, float, str], int]:
            return {(level, _FOCUS, _PATH): level for level in range(len(self._tiff.pages))}

        def _create_level_image_data(self, level_index: int) -> Level:
            factor = 2**level_index / _UM_PER_MM
            spacing = SizeMm(mpp.x * factor, mpp.y * factor)
            return Level(self._tiff.pages[level_index], self._encoder, spacing)

        def _create_label_image_data(self) -> None:
            return None

        def _create_overview_image_data(self) -> None:
            return None

        def _create_thumbnail_image_data(self) -> None:
            return None

    return Source
