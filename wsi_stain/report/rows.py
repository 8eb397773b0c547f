"""What became of one slide, as the summary and the report tell it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from wsi_stain.csv_file import printable
from wsi_stain.geometry import Mpp, Size
from wsi_stain.seams import SeamScore
from wsi_stain.settings import Settings
from wsi_stain.stain import StainStatistics

Status = Literal["done", "done-with-holes", "empty", "failed", "skipped"]

Text = Annotated[str, BeforeValidator(printable)]


class SlideRow(Settings):
    """What became of one slide.

    Attributes:
        slide: Its name as the user knows it.
        slide_id: Its name in the store and in receipts.
        status: How it ended.
        reason: What was expected and found, when it is not simply done.
        remedy: What the user can do about it.
        tiles: Tissue tiles.
        suspect: Tiles taken for glass that look as if they had tissue.
        seconds: Work spent on it in this run.
        output: The pyramid, relative to the output directory, with "/"; empty when there is none.
        other_outputs: The same pyramid in other formats.
        size: Size of level 0, px.
        mpp: Resolution of level 0, um per px.
        mpp_origin: Where the resolution came from.
        stain: Its stain as measured, before normalization.
        before: JPEG thumbnail of the slide.
        after: JPEG thumbnail of the pyramid; the same frame as `before`.
        seam: How much the lines show where it was cut.
        unexplained: PNG of mode L, a pixel a tile: ten times the colour difference, CIEDE2000, that no colour table for
            the slide explains (see `unexplained`). None where the output is such a table, which explains itself.
        unexplained_p95: 95th percentile of that difference over tiles with tissue; what is above 25.5 counts as 25.5.
        table_distance: Where the output is a table, its mean CIEDE2000 to the generator on tiles that were not fitted.
    """

    slide: Text
    slide_id: Text
    status: Status
    reason: Text = ""
    remedy: Text = ""
    tiles: int = Field(default=0, ge=0)
    suspect: int = Field(default=0, ge=0)
    seconds: float = Field(default=0.0, ge=0)
    output: Text = ""
    other_outputs: tuple[Text, ...] = ()
    size: Size | None = None
    mpp: Mpp | None = None
    mpp_origin: Text = ""
    stain: StainStatistics | None = None
    before: bytes | None = None
    after: bytes | None = None
    seam: SeamScore | None = None
    unexplained: bytes | None = None
    unexplained_p95: float | None = None
    table_distance: float | None = None

    def of_outputs(self, names: Sequence[str]) -> SlideRow:
        """The row with other outputs, the first being the one to show."""
        first, *others = map(printable, names)
        return self.model_copy(update={"output": first, "other_outputs": tuple(others)})
