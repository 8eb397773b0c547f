"""Cases to be seen, of one or two pictures, and their common frame in micrometres. Reads no pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from wsi_stain.core.errors import SlideError
from wsi_stain.core.text import escape_unprintable
from wsi_stain.stain.colour_table import Table
from wsi_stain.viewer.tiles import TILE_PX, DeepSlide, SlideTiles, file_version


@dataclass(frozen=True)
class Picture:
    """One slide of a case.

    Attributes:
        label: What it is, such as "source".
        path: The file that OpenSlide opens.
        slide_mpp: Resolution in place of what the file says, um per px.
        table: Colour table that its pixels are shown through, see `stain/colour_table`; None shows them as they are.
    """

    label: str
    path: Path
    slide_mpp: float | None = None
    table: Table | None = field(default=None, compare=False)

    @cached_property
    def id(self) -> str:
        """Its name in addresses: another one once the file has changed, so that browsers may keep what they got."""
        version = file_version(self.path)
        return version if self.table is None else version + sha256(self.table.tobytes()).hexdigest()[:12]


@dataclass(frozen=True)
class Case:
    """One entry of the page's list.

    Attributes:
        name: As the user knows it.
        pictures: One, or two that show the same tissue from the same corner; none of a slide that failed.
        status: How its run ended; empty where there was no run.
        note: Remark on it: why there is no picture, what to do.
    """

    name: str
    pictures: tuple[Picture, ...]
    status: str = ""
    note: str = ""


def describe_case(case: Case, tiles: SlideTiles) -> dict[str, Any]:
    """Describe a case for the page, JSON values only.

    Returns:
        name, note, `known`: whether sizes are micrometres, and panes. A pane has a label and file, and either
        problem and remedy, or id, width, height (px), mpp_x, mpp_y, levels, first_level, tile (px). Where a picture's
        resolution is unknown, it is as wide as the other; where both are, a pixel of the first counts as the unit.
    """
    slides = [_open_picture(picture, tiles) for picture in case.pictures]
    panes = [
        {
            "label": picture.label,
            "file": escape_unprintable(picture.path.name),
            **_pane(picture, slide, _unit(slide, slides)),
        }
        for picture, slide in zip(case.pictures, slides, strict=True)
    ]
    known = any(isinstance(slide, DeepSlide) and slide.mpp for slide in slides)
    return {
        "name": escape_unprintable(case.name),
        "note": escape_unprintable(case.note),
        "known": known,
        "panes": panes,
    }


def _open_picture(picture: Picture, tiles: SlideTiles) -> DeepSlide | SlideError:
    try:
        return tiles.describe(picture.path, picture.slide_mpp)
    except SlideError as error:
        return error


def _unit(slide: DeepSlide | SlideError, slides: Sequence[DeepSlide | SlideError]) -> tuple[float, float]:
    """Return the width and height of a pixel of a slide in the case's unit."""
    if not isinstance(slide, DeepSlide):
        return 1.0, 1.0
    if slide.mpp:
        return slide.mpp
    others = [other for other in slides if isinstance(other, DeepSlide)]
    guide = next((other for other in others if other.mpp), others[0])
    unit = guide.size.width * (guide.mpp.x if guide.mpp else 1.0) / slide.size.width
    return unit, unit


def _pane(picture: Picture, slide: DeepSlide | SlideError, unit: tuple[float, float]) -> dict[str, Any]:
    if isinstance(slide, SlideError):
        return {"problem": escape_unprintable(slide.problem), "remedy": slide.remedy}
    return {
        "id": picture.id,
        "width": slide.size.width,
        "height": slide.size.height,
        "mpp_x": unit[0],
        "mpp_y": unit[1],
        "levels": slide.levels,
        "first_level": slide.first_level,
        "tile": TILE_PX,
    }
