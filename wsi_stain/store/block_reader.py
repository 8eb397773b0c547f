"""The face that everything with pixels to normalize shows: a slide in the tile store, or the slide's own file."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.geometry import Mpp, Region, Size


class BlockReader(Protocol):
    """Pixels of one slide in its working frame, by region. What is not kept is glass and reads as 255."""

    @property
    def size(self) -> Size:
        """Width and height of the working frame, px."""

    @property
    def mpp(self) -> Mpp:
        """Resolution of the working frame, um per px."""

    @property
    def kept(self) -> NDArray[np.bool_]:
        """(rows, cols): which tiles exist."""

    @property
    def tissue(self) -> NDArray[np.float32]:
        """(rows, cols): share of tissue in each tile, 0 to 1."""

    def read(self, region: Region) -> NDArray[np.uint8]:
        """RGB pixels, (height, width, 3); 255 in tiles that are not kept and outside the slide."""
