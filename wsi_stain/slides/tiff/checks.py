"""Checks of a TIFF slide before any of its pixels is read: refusals by its directories alone, within seconds.

OpenSlide believes what a directory claims. It shows as white, or mirrored, or as another image, what is not as it says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from wsi_stain.core.errors import SlideError, UnreadableError
from wsi_stain.core.geometry import Size
from wsi_stain.slides.remedies import DAMAGED
from wsi_stain.slides.tiff.directories import DescribedImage, TiffDirectory, ome_images

_ORIENTATIONS = {
    2: "mirrored left to right",
    3: "turned by 180 degrees",
    4: "mirrored top to bottom",
    5: "mirrored about its diagonal",
    6: "turned by 90 degrees",
    7: "mirrored about its other diagonal",
    8: "turned by 270 degrees",
}
"""What the tag Orientation says of how pixels are stored (TIFF 6.0, page 36)."""

_GRAY = (0, 1)
_FORMATS = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
_BITS = (1, 2, 4, 8, 16)
_MAX_TILE_SIDE = 2**15
_MAX_OFFSET = np.uint64(2**62)
_MOST_BEYOND = 0.5
_RIVAL_AREA = 0.5
"""An image with at least this share of the slide's pixels may be the slide itself."""


def check_level(path: Path, directory: TiffDirectory) -> None:
    """Refuse a level that OpenSlide would show wrongly, or that claims more than its file holds.

    Raises:
        SlideError: Its orientation, its samples or its tiles.
    """
    size, tile = directory.size, directory.tile
    if directory.orientation in _ORIENTATIONS:
        raise SlideError(
            f"{path} has pixels stored {_ORIENTATIONS[directory.orientation]} (TIFF tag Orientation"
            f" {directory.orientation}, expected 1), which its tiles cannot be read with",
            "Write it again with upright pixels (for example: vips autorot FILE OUT.tif[tile,pyramid]), or set the tag"
            " to 1 if it is wrong",
        )
    if directory.sample_format in _FORMATS or directory.bits not in _BITS:
        kind = _FORMATS.get(directory.sample_format, "unsigned")
        raise SlideError(
            f"{path} has {kind} samples of {directory.bits} bits, expected unsigned ones of 8 bits",
            "Convert it to 8 bits a sample first, scaled to 0 to 255",
        )
    if tile is None:
        return
    if not 0 < min(tile) <= max(tile) <= _MAX_TILE_SIDE:
        raise SlideError(f"{path} has tiles of {_px(tile)}, expected sides up to {_MAX_TILE_SIDE}", DAMAGED)
    rows, columns = directory.grid
    needed = rows * columns * directory.planes
    if (listed := len(directory.counts)) < needed:
        raise SlideError(
            f"{path} claims {_px(size)}, which take {needed} tiles of {_px(tile)}, but lists {listed} tiles", DAMAGED
        )


def check_colour(path: Path, directory: TiffDirectory) -> None:
    """Refuse an image of one gray channel, which OpenSlide shows as RGB.

    Raises:
        SlideError: Its photometric interpretation is that of gray.
    """
    if directory.samples == 1 and directory.photometric in _GRAY:
        raise SlideError(
            f"{path} is gray, as one channel of fluorescence is: expected RGB",
            "Leave it out: this is for bright-field slides, as RGB of 8 bits",
        )


def check_content(path: Path, directory: TiffDirectory, file_bytes: int) -> None:
    """Refuse a level 0 most of whose tiles cannot be in the file.

    Raises:
        UnreadableError: None of them was ever written, or most lie beyond the end of the file.
    """
    counts, ends = directory.counts, np.minimum(directory.offsets, _MAX_OFFSET) + directory.counts
    if not counts.any():
        raise UnreadableError(
            f"{path} claims {_px(directory.size)}, but none of its {len(counts)} tiles is there", DAMAGED
        )
    beyond = (ends > file_bytes) & (counts > 0)
    if beyond.sum() > _MOST_BEYOND * np.count_nonzero(counts):
        raise UnreadableError(
            f"{path} claims {_px(directory.size)} that end at byte {int(ends.max())}, but has {file_bytes} bytes:"
            f" {int(beyond.sum())} of {len(counts)} tiles lie beyond its end",
            DAMAGED,
        )


def check_images(path: Path, directories: Sequence[TiffDirectory], levels: Sequence[Size]) -> tuple[str, ...]:
    """Refuse a file in which another image than the first may be the slide.

    Args:
        path: The file.
        directories: All of its directories.
        levels: Sizes of the levels that OpenSlide makes of the first image, finest first.

    Returns:
        A remark on the images beside the slide, if there are any.

    Raises:
        SlideError: Several images may be the slide; they are listed.
    """
    described = ome_images(directories[0].description)
    others = list(_others(directories, levels))
    images = [(directory, described_image(described, directory)) for directory in (directories[0], *others)]
    first, rivals = images[0], images[1:]
    area = levels[0].width * levels[0].height
    if any(
        not _is_no_slide(image)
        and (_is_no_slide(first[1]) or directory.size.width * directory.size.height >= _RIVAL_AREA * area)
        for directory, image in rivals
    ):
        listed = "; ".join(describe_image(*image) for image in images)
        raise SlideError(
            f"{path} holds {len(images)} images, of which OpenSlide takes the first: {listed}",
            "Save the image of the slide to a file of its own (for example: tiffcp FILE,NUMBER slide.tif, counting"
            " from 0), and use that",
        )
    if not rivals:
        return ()
    return (f"the first of {len(images)} images in the file is read; the others are {_join_descriptions(rivals)}",)


def described_image(images: Sequence[DescribedImage], directory: TiffDirectory) -> DescribedImage | None:
    """Return what an OME-XML text says of a directory: by its number, else by its size; None where it says nothing."""
    fitting = [image for image in images if image.size in (directory.size, None)]
    by_number = [image for image in fitting if image.directory == directory.number]
    return next(iter(by_number or fitting), None)


def _others(directories: Sequence[TiffDirectory], levels: Sequence[Size]) -> Iterator[TiffDirectory]:
    """Find the images beside the slide's pyramid: of full resolution, and no unmarked level of it."""
    known = list(levels)
    for directory in directories:
        if directory.size in known:
            known.remove(directory.size)
        elif directory.number and not directory.is_reduced and not is_level(directory.size, levels[0]):
            yield directory


def is_level(size: Size, size_l0: Size) -> bool:
    """Check whether an image has the shape of an unmarked level: both sides shrunk alike by two or more."""
    least = max(length_l0 / (length + 1) for length_l0, length in zip(size_l0, size, strict=True))
    most = min(length_l0 / max(length - 1, 0.5) for length_l0, length in zip(size_l0, size, strict=True))
    return most >= 1.5 and least <= most


def _is_no_slide(image: DescribedImage | None) -> bool:
    return image is not None and image.is_no_slide


def describe_image(directory: TiffDirectory, image: DescribedImage | None) -> str:
    """Describe an image for a message: its place in the file, its name and its size."""
    name = f" {image.name!r}" if image and image.name else ""
    return f"{directory.number}{name} of {_px(directory.size)}"


def _join_descriptions(images: Sequence[tuple[TiffDirectory, DescribedImage | None]]) -> str:
    return ", ".join(describe_image(*image) for image in images)


def _px(size: Size) -> str:
    return f"{size.width} x {size.height} px"
