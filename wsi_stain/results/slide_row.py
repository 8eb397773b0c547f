"""Row of one slide: what became of it, for the summary and the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from wsi_stain.core import html
from wsi_stain.core.geometry import Mpp, Size
from wsi_stain.core.records import StrictRecord
from wsi_stain.core.text import escape_unprintable
from wsi_stain.metrics.chromatin import NuclearDetail, contrast_kept
from wsi_stain.metrics.seams import SeamScore
from wsi_stain.stain.statistics import StainStatistics

_TEMPLATES = Path(__file__).parent / "templates"

Status = Literal["done", "done-with-holes", "empty", "failed", "skipped", "unfinished"]
"""How a slide ended. `unfinished` stands only in reports of runs that did not end."""

Text = Annotated[str, BeforeValidator(escape_unprintable)]


def _check_below(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError("it leads out of the output directory")
    return name


def _check_one_name(slide_id: str) -> str:
    if "/" in slide_id or slide_id in (".", ".."):
        raise ValueError("it is no name of a folder")
    return slide_id


OutputName = Annotated[Text, AfterValidator(_check_below)]
"""A file or directory, relative to the output directory and below it."""

SlideId = Annotated[Text, AfterValidator(_check_one_name)]
"""A slide's name in the store, and of its folder in OUT/work/slides."""


class FieldOfView(StrictRecord):
    """One place of a slide before and after, at one magnification.

    Attributes:
        what: Why this place was taken.
        mpp: Resolution of the pictures, um per px.
        x: Left edge in the working frame, px.
        y: Upper edge in the working frame, px.
        before: JPEG of the slide.
        after: JPEG of the pyramid; the same frame.
    """

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    what: Text
    mpp: float
    x: int
    y: int
    before: bytes
    after: bytes


class Colours(StrictRecord):
    """A slide's colours before and after, from the same pixels.

    Attributes:
        before: Share of tissue pixels by luminance OD relative to the slide's white; see `colours`.
        after: The same of the pyramid, relative to the reference's white.
        stain: Stain of the pyramid; None where it could not be measured.
        change: Mean CIEDE2000 from before to after.
        change_by_statistics: The same from before to what the slide's statistics alone make of it, see
            `stain/beer_lambert`.
    """

    before: tuple[float, ...]
    after: tuple[float, ...]
    stain: StainStatistics | None = None
    change: float
    change_by_statistics: float


class NuclearChange(StrictRecord):
    """A slide's nuclei before and after, in the same places.

    Attributes:
        before: Nuclei of the slide.
        after: The same pixels of the pyramid.
    """

    before: NuclearDetail
    after: NuclearDetail

    @property
    def contrast_kept(self) -> float | None:
        """Share of the contrast within nuclei that is left, see `contrast_kept`."""
        return contrast_kept(self.after, self.before)


class SlidePictures(StrictRecord):
    """Pictures and colours of a slide in the report; all of it is None or empty where there is no pyramid.

    Attributes:
        before: JPEG thumbnail of the slide.
        after: JPEG thumbnail of the pyramid; the same frame as `before`.
        overlay: JPEG of what was taken for tissue; the same frame.
        fields: A few places, before and after, at several magnifications.
        colours: Its colours before and after.
        nuclei: Its nuclei before and after; None where it shows hardly any.
    """

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    before: bytes | None = None
    after: bytes | None = None
    overlay: bytes | None = None
    fields: tuple[FieldOfView, ...] = ()
    colours: Colours | None = None
    nuclei: NuclearChange | None = None


class SlideRow(SlidePictures):
    """Row of one slide: what became of it.

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
        seam: How much the lines show where it was cut.
        hallucination: PNG of mode L, a pixel a tile: ten times the colour difference, CIEDE2000, that no colour table
            for the slide explains (see `metrics/hallucination.py`). None where the output is such a table, which
            explains itself.
        hallucination_p95: 95th percentile of that difference over tiles with tissue; what is above 25.5 counts as 25.5.
        table_distance: Where the output is a table, its mean CIEDE2000 to the generator on tiles that were not fitted.
    """

    slide: Text
    slide_id: SlideId
    status: Status
    reason: Text = ""
    remedy: Text = ""
    tiles: int = Field(default=0, ge=0)
    suspect: int = Field(default=0, ge=0)
    seconds: float = Field(default=0.0, ge=0)
    output: OutputName = ""
    other_outputs: tuple[OutputName, ...] = ()
    size: Size | None = None
    mpp: Mpp | None = None
    mpp_origin: Text = ""
    stain: StainStatistics | None = None
    seam: SeamScore | None = None
    hallucination: bytes | None = None
    hallucination_p95: float | None = None
    table_distance: float | None = None

    def _repr_html_(self) -> str:
        facts = {
            "status": self.status,
            "reason": " ".join(filter(None, (self.reason, self.remedy))),
            "size": f"{self.size.width} x {self.size.height} px" if self.size else "",
            "resolution": f"{self.mpp.mean:.4g} um/px, from {self.mpp_origin}" if self.mpp else "",
            "tiles": str(self.tiles or ""),
            "output": self.output,
        }
        pictures = [picture for picture in (self.before, self.after) if picture]
        return (
            html.environment(_TEMPLATES)
            .get_template("row.html")
            .render(slide=self.slide, facts=facts, pictures=pictures)
        )

    def with_pictures(self, pictures: SlidePictures) -> SlideRow:
        """Return the row with pictures and colours."""
        return self.model_copy(update=dict(pictures))

    def without_pictures(self) -> SlideRow:
        """Return the row as it can be held in memory for thousands of slides."""
        return self.model_copy(
            update={"before": None, "after": None, "hallucination": None, "overlay": None, "fields": ()}
        )

    def with_outputs(self, names: Sequence[str]) -> SlideRow:
        """Return the row with other outputs, the first being the one to show."""
        first, *others = map(escape_unprintable, names)
        return self.model_copy(update={"output": first, "other_outputs": tuple(others)})
