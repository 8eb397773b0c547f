"""A slide's own file read as the tile store would read it, so that nothing has to be stored. Never imports torch.

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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core import journal
from wsi_stain.core.errors import SlideError
from wsi_stain.core.geometry import Region, TileIndex, tile_region
from wsi_stain.slides.find import SlideSource
from wsi_stain.slides.slide import Slide
from wsi_stain.store import SlideRecord, TiledSlide
from wsi_stain.store.artifact import load_artifact, save_artifact
from wsi_stain.store.stain_sample import measure_stain
from wsi_stain.tiling.config import TilingConfig, labels, opened, record_of
from wsi_stain.tiling.survey import Survey, look_for_tissue
from wsi_stain.tissue.grid import TileGrid

_SURVEY, _RECEIPT = "survey.npz", "survey.json"


class StreamedSlide(TiledSlide):
    """A slide whose tiles are read from its own file. Threads may share it; they read one after the other.

    Args:
        source: The slide.
        config: How it would be tiled.
        record: What is known of it.
        found: Its tissue.
        place: Where its survey is kept; None where it is not.
    """

    def __init__(
        self, source: SlideSource, config: TilingConfig, record: SlideRecord, found: Survey, place: Path | None = None
    ) -> None:
        super().__init__(record)
        self.source = source
        self.config = config
        self.place = place
        self._found = found
        self._lock = Lock()

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
        if self.place is None:
            return partial(survey, self.source, self.config)
        return partial(load_streamed, self.place, self.source, self.config)

    @property
    def kept(self) -> NDArray[np.bool_]:
        """(rows, cols): which tiles exist."""
        return self._found.grid.kept

    @property
    def tissue(self) -> NDArray[np.float32]:
        """(rows, cols): share of tissue in each tile, 0 to 1."""
        return self._found.grid.tissue

    @property
    def suspect(self) -> NDArray[np.bool_]:
        """(rows, cols): tiles without tissue that look as if they had some."""
        return self._found.suspect

    @property
    def thumbnail(self) -> NDArray[np.uint8]:
        """RGB of the whole frame, (h, w, 3)."""
        return self._found.thumbnail

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(h, w): where tissue was found on the thumbnail."""
        return self._found.mask

    def save(self, place: Path) -> None:
        """Keep the survey in a folder, its receipt last."""
        found = self._found
        arrays = {
            "thumbnail": found.thumbnail,
            "mask": found.mask,
            "ink": found.ink,
            "kept": found.grid.kept,
            "tissue": found.grid.tissue,
            "suspect": found.suspect,
        }
        (place / _RECEIPT).unlink(missing_ok=True)  # until the new one is written, none may vouch for these bytes
        save_artifact(place / _SURVEY, arrays)
        record = self.record.model_dump(mode="json")
        journal.write_receipt(place / _RECEIPT, self.record.key, place / _SURVEY, record=record)
        self.place = place

    def read_shrunk(self, factor: int, region: Region) -> NDArray[np.uint8]:
        """As `Slide.read_shrunk`, glass included."""
        with self._lock:
            return self._slide.read_shrunk(factor, region)

    @property
    def bounds(self) -> Region:
        """As `Slide.bounds`."""
        with self._lock:
            return self._slide.bounds

    @cached_property
    def _slide(self) -> Slide:
        return opened(self.source, self.config)

    def _decoded(self, tiles: Sequence[TileIndex]) -> Iterator[NDArray[np.uint8]]:
        """RGB of each tile in turn; what cannot be decoded shows a coarser level, as tiling stores it."""
        for tile in tiles:
            with self._lock:
                pixels, damaged = self._slide.read_mended(tile_region(tile))
            if damaged:
                self.mended.add(tile)
            yield pixels


def survey(source: SlideSource, config: TilingConfig) -> StreamedSlide:
    """Decide which tiles a slide has and measure its stain; nothing is written.

    Raises:
        SlideError: The slide cannot be used; NoTissueError where it has no tissue.
        StainError: It is not H&E, or has too little tissue.
    """
    with opened(source, config) as slide:
        record = record_of(slide, source, config)
        found = look_for_tissue(slide, config.tissue, source)
    with StreamedSlide(source, config, record, found) as made:  # it opens its file again when pixels are asked for
        stain = measure_stain(made, config.stain, own_mask=source.mask is not None)
    made.record = record.model_copy(update={"stain": stain, "suspect_tiles": int(found.suspect.sum())})
    return made


def load_streamed(place: Path, source: SlideSource, config: TilingConfig) -> StreamedSlide:
    """A slide by the survey that `StreamedSlide.save` kept.

    Raises:
        SlideError: There is none, or it is damaged.
    """
    receipt: Any = journal.read_json(place / _RECEIPT)
    try:
        record = SlideRecord.model_validate(receipt["record"])
    except (TypeError, KeyError, ValueError) as error:
        raise SlideError(f"There is no survey of {source.relative} in {place}", "Run the same command again") from error
    arrays = load_artifact(place / _SURVEY)
    grid = TileGrid(record.size, arrays["tissue"], arrays["kept"])
    found = Survey(arrays["thumbnail"], arrays["mask"], arrays["ink"], grid, arrays["suspect"])
    return StreamedSlide(source, config, record.model_copy(update=labels(source)), found, place)


def drop_survey(place: Path) -> None:
    """Remove a survey that was kept."""
    shutil.rmtree(place, ignore_errors=True)


# The task


@dataclass(frozen=True)
class StreamTask:
    """Survey one slide whose tiles will be read from its file.

    Attributes:
        source: The slide.
        config: How it would be tiled.
        place: The folder where its survey is kept.
    """

    source: SlideSource
    config: TilingConfig
    place: Path


def stream_slide(task: StreamTask) -> dict[str, Any]:
    """Do a `StreamTask`, unless it is done.

    Returns:
        The receipt: key, tiles, redone_because (what changed since it was last surveyed, or None).

    Raises:
        SlideError: The slide cannot be used; NoTissueError where it has no tissue.
        StainError: It is not H&E, or has too little tissue.
    """
    with opened(task.source, task.config) as slide:
        key = record_of(slide, task.source, task.config).key
    last = journal.read_json(task.place / _RECEIPT)
    if not journal.valid_receipt(task.place / _RECEIPT, key, task.place / _SURVEY):
        survey(task.source, task.config).save(task.place)
    redone = isinstance(last, dict) and last.get("key") != key
    return {"key": key, "redone_because": "the slide or the settings changed" if redone else None}
