"""wsidicom as a reader of DICOM that OpenSlide refuses, such as YBR_FULL. Comes with the extra `dicom`.

Memory bound: beside the pixels returned, the frames that they touch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.errors import SlideError, UnreadableError
from wsi_stain.core.geometry import Region, Size
from wsi_stain.slides.claims import check_sizes, read_claims
from wsi_stain.slides.dicom_series import check_frames, dicom_levels, files_of_slide
from wsi_stain.slides.readers.base import NO_SLIDE_REMEDY
from wsi_stain.slides.remedies import DAMAGED
from wsi_stain.slides.resolution import POWER
from wsi_stain.slides.srgb import check_profile


class DicomReader:
    """A DICOM slide that wsidicom reads, as a `SlideReader`.

    Args:
        path: Any file of its series.

    Raises:
        SlideError: wsidicom is missing or cannot read it, or it is no bright-field slide of 8 bits.
    """

    name = "wsidicom"

    def __init__(self, path: Path) -> None:
        self.path = path
        check_frames(path, dicom_levels(path))
        self._slide = _open(path)
        try:
            self._levels = sorted(self._slide.levels, key=lambda level: level.level)
            _check_samples(path, self._levels[0])
            self.sizes = [Size(level.size.width, level.size.height) for level in self._levels]
            self.tiles = [Size(level.tile_size.width, level.tile_size.height) for level in self._levels]
            check_sizes(path, self.sizes)
            self.claims = read_claims(path, "dicom", self.sizes)
            self._describe()
        except BaseException:
            self._slide.close()
            raise

    def _describe(self) -> None:
        dataset, mpp = self._levels[0].datasets[0], self.claims.mpp[0]
        self.properties = {"openslide.vendor": "dicom"}
        if mpp is not None:
            self.properties |= {"openslide.mpp-x": f"{mpp.x:.9g}", "openslide.mpp-y": f"{mpp.y:.9g}"}
        paths = list(dataset.get("OpticalPathSequence") or [])
        power = paths[0].get("ObjectiveLensPower") if paths else None
        if power:
            self.properties[POWER] = f"{float(power):g}"
        self.background = (255, 255, 255)
        profile = paths[0].get("ICCProfile") if paths else None
        self.icc_profile, self.icc_problem = check_profile(bytes(profile) if profile else None)

    def read(self, level: int, region_level: Region) -> NDArray[np.uint8]:
        """Read RGB pixels of a region within a level, (height, width, 3).

        Raises:
            UnreadableError: A frame cannot be decoded.
        """
        x, y, width, height = region_level
        try:
            image = self._slide.read_region((x, y), self._levels[level].level, (width, height))
        except Exception as error:  # whatever a codec makes of damaged bytes
            raise UnreadableError(f"{self.path} cannot be read at level {level}: {error}", DAMAGED) from error
        return np.asarray(image.convert("RGB"))

    def close(self) -> None:
        """Release the files."""
        self._slide.close()


def _open(path: Path) -> Any:
    try:
        from wsidicom import WsiDicom
    except ImportError as error:
        raise SlideError(
            f"{path} is DICOM that OpenSlide does not read, and wsidicom is missing: {error}",
            "Install the extra: pip install 'wsi-stain[dicom]'",
        ) from error
    try:
        return WsiDicom.open(files_of_slide(path))
    except Exception as error:  # whatever a damaged header makes of the library
        raise SlideError(f"{path} cannot be opened as a DICOM slide: {error}", DAMAGED) from error


def _check_samples(path: Path, level: Any) -> None:
    dataset = level.datasets[0]
    if int(dataset.SamplesPerPixel) != 3:
        kind = f"{dataset.PhotometricInterpretation} of {dataset.SamplesPerPixel} sample a pixel"
        raise SlideError(f"{path} is gray or has separate channels, as in fluorescence: {kind}", NO_SLIDE_REMEDY)
    if int(dataset.BitsAllocated) != 8:
        raise SlideError(f"{path} has samples of {dataset.BitsAllocated} bits, expected 8", NO_SLIDE_REMEDY)
