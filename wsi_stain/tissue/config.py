"""Settings of the search for tissue."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wsi_stain.core.records import StrictRecord


class TissueConfig(StrictRecord):
    """Settings of the search for tissue.

    Attributes:
        method: `otsu`: by colour, and fat by its walls. `entropy`: by texture alone, whatever the stain.
        mpp: Resolution of the thumbnail that the decision is made on, um per px; finer on a small slide,
            coarser on one of more than 3 square cm.
        smoothing_um: Standard deviation of the blur before thresholds, um; it carries the mask over pale gaps.
        min_tissue_um2: Pieces smaller than this are dust, square um.
        max_hole_um2: Holes smaller than this are filled, square um.
        min_ink_um2: Pieces with the colour of ink, or as dark as a border, smaller than this are neither, square um.
        ink_margin_um: Width of the rim around ink and dark that is not trusted either, um.
    """

    method: Literal["otsu", "entropy"] = "otsu"
    mpp: float = Field(default=8.0, gt=0.5, le=64)
    smoothing_um: float = Field(default=12.0, ge=0)
    min_tissue_um2: float = Field(default=10_000.0, ge=0)
    max_hole_um2: float = Field(default=40_000.0, ge=0)
    min_ink_um2: float = Field(default=5_000.0, ge=0)
    ink_margin_um: float = Field(default=24.0, ge=0)
