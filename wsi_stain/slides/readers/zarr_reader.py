"""zarr-python as a reader of OME-Zarr, NGFF 0.4 and 0.5: in a directory or on S3; own outputs and stores too.

A group of several images, as bioformats2raw writes it, is the largest of them. Chunks that are not there show the
array's fill value.

Memory bound: beside the pixels returned, the chunks that they touch; of a sharded array its index.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.errors import SlideError, UnreadableError
from wsi_stain.core.geometry import Mpp, Region, Size
from wsi_stain.core.storage import S3Path, StoragePath, open_bucket
from wsi_stain.slides.claims import SlideClaims, check_sizes
from wsi_stain.slides.readers.base import NO_SLIDE_REMEDY
from wsi_stain.slides.remedies import DAMAGED
from wsi_stain.slides.resolution import Resolution
from wsi_stain.slides.srgb import check_profile

_UM = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}
_COLOURS = ("FF0000", "00FF00", "0000FF")
_SPATIAL = ("y", "x")
_MOST_IMAGES = 64


class ZarrReader:
    """An OME-Zarr that zarr-python reads, as a `SlideReader`.

    Args:
        path: The directory or prefix of an image, or of a group that bioformats2raw made.

    Raises:
        SlideError: It is no OME-Zarr, or not of a bright-field slide of 8 bits.
    """

    name = "zarr"

    def __init__(self, path: StoragePath) -> None:
        self.path = path
        group = _largest_image(path, _open_group(path))
        ngff, attributes = _ngff(group), dict(group.attrs)
        (scales, *_) = ngff["multiscales"]
        self._axes = _axis_names(scales)
        arrays = [_array(path, group, str(dataset["path"])) for dataset in scales["datasets"]]
        _check_samples(path, self._axes, arrays[0], ngff)
        steps = [_scale(scales, dataset, self._axes) for dataset in scales["datasets"]]
        order = sorted(range(len(arrays)), key=lambda number: -_side(arrays[number], self._axes, "x"))
        self._arrays = [arrays[number] for number in order]
        self.sizes = [Size(_side(array, self._axes, "x"), _side(array, self._axes, "y")) for array in self._arrays]
        check_sizes(path, self.sizes)
        self.tiles = [_tile(array, self._axes) for array in self._arrays]
        mpp = [_mpp(scales, steps[number], self._axes) for number in order]
        described = [Resolution(mpp[0], "ngff")] if mpp[0] else []
        self.claims = SlideClaims([None] * len(mpp), mpp, may_pad=False, described=described)
        self.properties = {"openslide.vendor": "ome-zarr"}
        self.background = (255, 255, 255)
        self.icc_profile, self.icc_problem = check_profile(_own_profile(attributes))

    def read(self, level: int, region_level: Region) -> NDArray[np.uint8]:
        """Read RGB pixels of a region within a level, (height, width, 3).

        Raises:
            UnreadableError: A chunk cannot be decoded, or not be fetched.
        """
        x, y, width, height = region_level
        window = {"x": slice(x, x + width), "y": slice(y, y + height), "c": slice(None)}
        try:
            pixels = np.asarray(self._arrays[level][tuple(window.get(axis, 0) for axis in self._axes)])
        except Exception as error:  # whatever a codec or a network makes of it
            raise UnreadableError(f"{self.path} cannot be read at level {level}: {error}", DAMAGED) from error
        named = [axis for axis in self._axes if axis in window]
        return np.ascontiguousarray(pixels.transpose([named.index(axis) for axis in ("y", "x", "c")]))

    def close(self) -> None:
        """Release what is held: files are open only while they are read."""
        self._arrays = []


def _open_group(path: StoragePath) -> Any:
    """Open the group of a path, of either version of Zarr."""
    import zarr

    try:
        if isinstance(path, S3Path):
            from zarr.storage import ObjectStore

            with open_bucket(path) as bucket:
                return zarr.open_group(ObjectStore(bucket, read_only=True), path=path.key, mode="r")
        return zarr.open_group(path, mode="r")
    except Exception as error:
        raise SlideError(
            f"{path} cannot be opened as a Zarr group: {error}", "Check the path and its permissions"
        ) from error


def _ngff(group: Any) -> Mapping[str, Any]:
    """Return the group's NGFF metadata: of 0.5 below `ome`, of 0.4 among its attributes."""
    attributes = dict(group.attrs)
    ngff = attributes.get("ome", attributes)
    return ngff if isinstance(ngff, dict) else {}


def _largest_image(path: StoragePath, group: Any) -> Any:
    """Return the group itself where it is an image, else the largest of its images."""
    if _ngff(group).get("multiscales"):
        return group
    images = []
    for number in range(_MOST_IMAGES):
        try:
            image = group[str(number)]
            array = image[str(_ngff(image)["multiscales"][0]["datasets"][0]["path"])]
        except (KeyError, TypeError, IndexError, AttributeError):
            break
        images.append((int(np.prod(array.shape)), -number, image))
    if not images:
        raise SlideError(
            f"{path} is a Zarr group without an image (no multiscales in its attributes)",
            "Name an OME-Zarr image; of a tile store the folder of a slide",
        )
    return max(images, key=lambda found: found[:2])[2]


def _array(path: StoragePath, group: Any, name: str) -> Any:
    try:
        return group[name]
    except Exception as error:  # whatever zarr makes of damaged metadata
        raise SlideError(f"{path} lacks the level {name}: {error!r}", DAMAGED) from error


def _axis_names(scales: Mapping[str, Any]) -> list[str]:
    axes = scales.get("axes", ["t", "c", "z", "y", "x"])
    return [str(axis["name"] if isinstance(axis, dict) else axis) for axis in axes]


def _side(array: Any, axes: Sequence[str], name: str) -> int:
    return int(array.shape[axes.index(name)]) if name in axes else 1


def _tile(array: Any, axes: Sequence[str]) -> Size:
    return Size(*(int(array.chunks[axes.index(name)]) for name in ("x", "y")))


def _check_samples(path: StoragePath, axes: Sequence[str], array: Any, ngff: Mapping[str, Any]) -> None:
    """Refuse what is no RGB of 8 bits in one plane."""
    channels = _side(array, axes, "c")
    if not set(_SPATIAL) <= set(axes) or len(axes) != array.ndim:
        raise SlideError(f"{path} has the axes {', '.join(axes)}, expected y and x among them", DAMAGED)
    if channels != 3:
        found = "is gray" if channels == 1 else f"has {channels} channels, as in fluorescence"
        raise SlideError(f"{path} {found}: expected the three of RGB", NO_SLIDE_REMEDY)
    if array.dtype != np.uint8:
        raise SlideError(f"{path} has samples of type {array.dtype}, expected uint8", NO_SLIDE_REMEDY)
    deep = [axis for axis in axes if axis not in ("c", *_SPATIAL) and _side(array, axes, axis) > 1]
    if deep:
        raise SlideError(f"{path} has several planes along {', '.join(deep)}, expected one", NO_SLIDE_REMEDY)
    shown = [str(channel.get("color", "")).upper() for channel in (ngff.get("omero") or {}).get("channels", [])]
    if len(shown) == 3 and all(shown) and tuple(shown) != _COLOURS:
        raise SlideError(
            f"{path} has channels shown in the colours {', '.join(shown)}, as in fluorescence: expected those of RGB",
            NO_SLIDE_REMEDY,
        )


def _scale(scales: Mapping[str, Any], dataset: Mapping[str, Any], axes: Sequence[str]) -> dict[str, float]:
    """Multiply the scales of a level and of the whole image, by axis."""
    product = dict.fromkeys(axes, 1.0)
    for place in (dataset, scales):
        for change in place.get("coordinateTransformations") or ():
            if change.get("type") == "scale" and len(change.get("scale", ())) == len(axes):
                product = {axis: product[axis] * float(step) for axis, step in zip(axes, change["scale"], strict=True)}
    return product


def _mpp(scales: Mapping[str, Any], step: Mapping[str, float], axes: Sequence[str]) -> Mpp | None:
    """Return a level's resolution, um per px; None where the axes have no unit of length."""
    units = {
        str(axis.get("name")): _UM.get(str(axis.get("unit")))
        for axis in scales.get("axes", [])
        if isinstance(axis, dict)
    }
    x, y = units.get("x"), units.get("y")
    return Mpp(step["x"] * x, step["y"] * y) if x and y and step["x"] > 0 and step["y"] > 0 else None


def _own_profile(attributes: Mapping[str, Any]) -> bytes | None:
    """Return the ICC profile as this project's outputs keep it."""
    own = attributes.get("wsi_stain")
    text = own.get("icc_profile") if isinstance(own, dict) else None
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except binascii.Error:
        return None
