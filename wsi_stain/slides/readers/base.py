"""The protocol that all readers of slides stand behind: levels, facts, RGB of a level's region. Opens no file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.arrays import Rgb8
from wsi_stain.core.geometry import Region, Size
from wsi_stain.core.storage import StoragePath
from wsi_stain.slides.claims import SlideClaims

NO_SLIDE_REMEDY = "Leave it out: this is for bright-field slides, as RGB of 8 bits"
"""The remedy for images of another kind."""


class SlideReader(Protocol):
    """One open slide.

    Attributes:
        name: The library that reads it.
        path: The slide.
        properties: Facts under OpenSlide's names, as far as they are known: `openslide.vendor` always.
        sizes: Width and height of each level, px, finest first.
        tiles: Size of each level's own tiles, px.
        background: RGB where the scanner recorded nothing.
        icc_profile: Of the pixels; None where there is none, or one that cannot be used.
        icc_problem: Why it cannot be used; empty where it can, or where there is none.
        claims: Further facts of the file, checked.
    """

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> StoragePath: ...
    @property
    def properties(self) -> dict[str, str]: ...
    @property
    def sizes(self) -> Sequence[Size]: ...
    @property
    def tiles(self) -> Sequence[Size]: ...
    @property
    def background(self) -> Rgb8: ...
    @property
    def icc_profile(self) -> bytes | None: ...
    @property
    def icc_problem(self) -> str: ...
    @property
    def claims(self) -> SlideClaims: ...

    def read(self, level: int, region_level: Region) -> NDArray[np.uint8]:
        """Read RGB pixels of a region within a level, (height, width, 3); a pixel depends on its place alone.

        Args:
            level: Its number, 0 the finest.
            region_level: In the level's own pixels.

        Raises:
            UnreadableError: The region cannot be decoded.
            SlideError: The file can no longer be opened.
        """

    def close(self) -> None:
        """Release the file."""
