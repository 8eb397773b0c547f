"""A slide's own file read as the tile store would read it, so that nothing has to be stored. Knows no torch.

What tiling decides is decided here as well, by the same code: tissue and grid on the thumbnail, stain on a sample of
the tiles. So pixels, `kept` and stain are those of a lossless tile store. The survey is kept in two small files, the
tiles nowhere: each is decoded when it is asked for.

Memory bound: the survey (30 MB at most), one tile, and what reading it takes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core import journal
from wsi_stain.core.arrays import Mask
from wsi_stain.core.errors import SlideError
from wsi_stain.core.geometry import Region, TileIndex, tile_region
from wsi_stain.core.receipts import Receipt, file_product, valid_receipt, write_receipt
from wsi_stain.executor.forks import ForkAware
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.slides.slide import Slide
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import SlideRecord, TiledSlide
from wsi_stain.store.artifact import load_artifact, save_artifact
from wsi_stain.store.stain_sample import measure_stain
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.record import labels, make_record, open_slide
from wsi_stain.tiling.survey import Survey, require_tissue
from wsi_stain.tissue.exempt import Exempt
from wsi_stain.tissue.grid import TileGrid

_SURVEY, _RECEIPT = "survey.npz", "survey.json"


_INHERITED: list[Slide] = []
"""Files that a forked process has from its parent: closing them here could disturb what the parent was about."""


class SavedSurvey(Receipt):
    """Receipt of a survey that was kept: the slide's record as JSON."""

    record: dict[str, Any]


class StreamReceipt(TypedDict):
    """Receipt of `stream_slide`.

    Attributes:
        key: Fingerprint of everything that the slide's tiles depend on.
        redone_because: What changed since it was last surveyed, or None.
    """

    key: str
    redone_because: str | None


class StreamedSlide(TiledSlide, ForkAware):
    """A slide whose tiles are read from its own file. Threads may share it; they read one after the other.

    Forked processes may go on with it: they open the file for themselves. It may be pickled, with its survey.

    Args:
        source: The slide.
        config: How it would be tiled.
        record: What is known of it.
        survey: Its tissue.
        folder: Where its survey is kept; None where it is not.
    """

    def __init__(
        self, source: SlideSource, config: TilingConfig, record: SlideRecord, survey: Survey, folder: Path | None = None
    ) -> None:
        super().__init__(record)
        self.source = source
        self.config = config
        self.folder = folder
        self._found = survey
        self._lock = Lock()
        self.watch_forks()

    def __reduce__(self) -> tuple[type[StreamedSlide], tuple[Any, ...]]:
        return StreamedSlide, (self.source, self.config, self.record, self._found, self.folder)

    def after_fork(self) -> None:
        """Forget the parent's file without closing it, and what its threads hold."""
        self._lock = Lock()
        if "_slide" in self.__dict__:
            _INHERITED.append(self.__dict__.pop("_slide"))

    def __repr__(self) -> str:
        return f"<StreamedSlide {self.source.path}: {self.size.width} x {self.size.height} px, {self.kept.sum()} tiles>"

    def close(self) -> None:
        """Release the slide's file."""
        if "_slide" in self.__dict__:
            self._slide.close()
            del self._slide

    @property
    def opener(self) -> Callable[[], StreamedSlide]:
        """Opens the slide again, in any process, by its survey where that is kept."""
        if self.folder is None:
            return partial(survey_streamed, self.source, self.config)
        return partial(load_streamed, self.folder, self.source, self.config)

    @property
    def kept(self) -> Mask:
        """(rows, cols): which tiles exist."""
        return self._found.grid.kept

    @property
    def tissue(self) -> NDArray[np.float32]:
        """(rows, cols): share of tissue in each tile, 0 to 1."""
        return self._found.grid.tissue

    @property
    def suspect(self) -> Mask:
        """(rows, cols): tiles without tissue that look as if they had some."""
        return self._found.suspect

    @property
    def thumbnail(self) -> NDArray[np.uint8]:
        """RGB of the whole frame, (h, w, 3)."""
        return self._found.thumbnail

    @property
    def mask(self) -> Mask:
        """(h, w): where tissue was found on the thumbnail."""
        return self._found.mask

    @property
    def exempt(self) -> Exempt:
        """(h, w): what is not normalized, on the thumbnail."""
        return self._found.exempt

    def save(self, folder: Path) -> None:
        """Keep the survey in a folder, its receipt last."""
        survey = self._found
        arrays = {
            "thumbnail": survey.thumbnail,
            "mask": survey.mask,
            "exempt": survey.exempt,
            "kept": survey.grid.kept,
            "tissue": survey.grid.tissue,
            "suspect": survey.suspect,
        }
        (folder / _RECEIPT).unlink(missing_ok=True)  # until the new one is written, none may vouch for these bytes
        save_artifact(folder / _SURVEY, arrays)
        receipt: SavedSurvey = {
            "key": self.record.key,
            "product": file_product(folder / _SURVEY),
            "record": self.record.model_dump(mode="json"),
        }
        write_receipt(folder / _RECEIPT, receipt)
        self.folder = folder

    def read_shrunk(self, factor: int, region: Region) -> NDArray[np.uint8]:
        """Read as `Slide.read_shrunk_repaired` does, glass included."""
        with self._lock:
            return self._slide.read_shrunk_repaired(factor, region)[0]

    @property
    def bounds(self) -> Region:
        """As `Slide.bounds`."""
        with self._lock:
            return self._slide.bounds

    @cached_property
    def _slide(self) -> Slide:
        return open_slide(self.source, self.config)

    def _decode_tiles(self, tiles: Sequence[TileIndex]) -> Iterator[NDArray[np.uint8]]:
        """Yield RGB of each tile in turn; what cannot be decoded shows a coarser level, as tiling stores it."""
        for tile in tiles:
            with self._lock:
                pixels, damaged = self._slide.read_repaired(tile_region(tile))
            if damaged:
                self.repaired.add(tile)
            yield pixels


def survey_streamed(source: SlideSource, config: TilingConfig) -> StreamedSlide:
    """Decide which tiles a slide has and measure its stain; nothing is written.

    Raises:
        SlideError: The slide cannot be used; NoTissueError where it has no tissue.
        StainError: It is not H&E, or has too little tissue.
    """
    with open_slide(source, config) as slide:
        record = make_record(slide, source, config)
        survey = require_tissue(slide, config, source)
    stain = measure_surveyed(source, config, record, survey)
    measured = {"stain": stain, "suspect_tiles": int(survey.suspect.sum()), "under_ink": survey.under_ink}
    return StreamedSlide(source, config, record.model_copy(update=measured), survey)


def measure_surveyed(source: SlideSource, config: TilingConfig, record: SlideRecord, survey: Survey) -> StainStatistics:
    """Measure the stain of a slide whose tissue is known, on tiles from its own file.

    Raises:
        SlideError: The file cannot be read.
        StainError: It is not H&E, or has too little tissue.
    """
    with StreamedSlide(source, config, record, survey) as slide:
        return measure_stain(slide, config.stain, has_user_mask=source.mask is not None)


def load_streamed(folder: Path, source: SlideSource, config: TilingConfig) -> StreamedSlide:
    """Load a slide by the survey that `StreamedSlide.save` kept.

    Raises:
        SlideError: There is none, or it is damaged.
    """
    receipt: Any = journal.read_json(folder / _RECEIPT)
    try:
        record = SlideRecord.model_validate(receipt["record"])
    except (TypeError, KeyError, ValueError) as error:
        raise SlideError(
            f"There is no survey of {source.relative} in {folder}", "Run the same command again"
        ) from error
    arrays = load_artifact(folder / _SURVEY)
    grid = TileGrid(record.size, arrays["tissue"], arrays["kept"])
    survey = Survey(arrays["thumbnail"], arrays["mask"], record.under_ink, arrays["exempt"], grid, arrays["suspect"])
    return StreamedSlide(source, config, record.model_copy(update=labels(source)), survey, folder)


def drop_survey(folder: Path) -> None:
    """Remove a survey that was kept."""
    shutil.rmtree(folder, ignore_errors=True)


# The task


@dataclass(frozen=True)
class StreamTask:
    """Survey one slide whose tiles will be read from its file.

    Attributes:
        source: The slide.
        config: How it would be tiled.
        folder: The folder where its survey is kept.
    """

    source: SlideSource
    config: TilingConfig
    folder: Path


def stream_slide(task: StreamTask) -> StreamReceipt:
    """Do a `StreamTask`, unless it is done.

    Raises:
        SlideError: The slide cannot be used; NoTissueError where it has no tissue.
        StainError: It is not H&E, or has too little tissue.
    """
    with open_slide(task.source, task.config) as slide:
        key = make_record(slide, task.source, task.config).key
    last = journal.read_json(task.folder / _RECEIPT)
    if not valid_receipt(task.folder / _RECEIPT, key, task.folder / _SURVEY, SavedSurvey):
        survey_streamed(task.source, task.config).save(task.folder)
    redone = isinstance(last, dict) and last.get("key") != key
    return {"key": key, "redone_because": "the slide or the settings changed" if redone else None}
