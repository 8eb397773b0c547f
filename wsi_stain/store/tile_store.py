"""Tile store as a whole: the slides in it. Knows no pixels."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wsi_stain import __version__
from wsi_stain.core.errors import StoreError
from wsi_stain.core.geometry import TILE
from wsi_stain.core.journal import read_json
from wsi_stain.core.storage import S3Path, StoragePath, list_folders, storage_path
from wsi_stain.formats import zarr_metadata
from wsi_stain.store.cards import Row, bad_row, good_row, store_card
from wsi_stain.store.record import FORMAT, is_complete
from wsi_stain.store.stored_slide import StoredSlide
from wsi_stain.store.writer import SlideWriter

_REMEDY = "Check the path, or choose another directory: `wsi-stain tile` makes a tile store"
_THREADS = 16
_SHOWN = 20
"""Slides that a notebook shows of a store: each costs a few reads."""


class TileStore:
    """A tile store: read from a directory or from `s3://bucket/prefix`, written to a directory.

    It acts like a read-only dictionary of its complete slides: `len(store)`, `"id" in store`, `store["id"]`,
    `for slide_id in store`. Whether a slide is complete is looked up each time, so that a store may grow meanwhile.

    Args:
        path: The directory, or the URL.

    Raises:
        StoreError: There is no tile store, or one of another format, or S3 cannot be read.
    """

    def __init__(self, path: str | StoragePath) -> None:
        self.path = storage_path(path)
        attributes = zarr_metadata.read_attributes(self.path)
        if attributes.get("format") != FORMAT or attributes.get("tile") != TILE:
            actual = f"format {attributes['format']}" if "format" in attributes else "none"
            raise StoreError(f"Expected a tile store of format {FORMAT} at {path}, found {actual}", _REMEDY)

    @classmethod
    def create(cls, path: Path) -> TileStore:
        """Open the store at a path, or make an empty one where there is nothing yet.

        Metadata that was lost or torn is written again where nothing but slides of a store is there.
        """
        free = _is_free(path)  # looked at first: another process may be making the store, metadata first
        if read_json(path / "zarr.json") is None:
            if not free:
                raise StoreError(f"{path} exists and is not a tile store", _REMEDY)
            attributes = {"format": FORMAT, "tile": TILE, "producer": f"wsi-stain {__version__}"}
            zarr_metadata.write_group(path, attributes)
        return cls(path)

    def slide_ids(self) -> list[str]:
        """List the complete slides, sorted."""
        names = list_folders(self.path)
        with ThreadPoolExecutor(_THREADS) as threads:  # each look is a request where the store is remote
            complete = threads.map(lambda name: is_complete(self.path / name), names)
            return [name for name, there in zip(names, complete, strict=True) if there]

    def __iter__(self) -> Iterator[str]:
        return iter(self.slide_ids())

    def __len__(self) -> int:
        return len(self.slide_ids())

    def __contains__(self, slide_id: object) -> bool:
        return isinstance(slide_id, str) and _is_name(slide_id) and is_complete(self.path / slide_id)

    def __repr__(self) -> str:
        return f"<TileStore {self.path}>"

    def _repr_html_(self) -> str:
        slide_ids = self.slide_ids()
        return store_card(str(self.path), [self._row(slide_id) for slide_id in slide_ids[:_SHOWN]], len(slide_ids))

    def __getitem__(self, slide_id: str) -> StoredSlide:
        """Open a complete slide; StoreError where there is none of that name."""
        return StoredSlide(self._folder(slide_id))

    def writer(self, slide_id: str) -> SlideWriter:
        """Return the writer of one slide of the store; StoreError where the store is not a local directory."""
        folder = self._folder(slide_id)
        if isinstance(folder, S3Path):
            raise StoreError(f"{self.path} can only be read", "Write a local tile store, then upload it")
        return SlideWriter(folder)

    def remove_slide(self, slide_id: str) -> None:
        """Remove a slide from the store, if it is there."""
        self.writer(slide_id).remove()

    def _row(self, slide_id: str) -> Row:
        try:
            slide = self[slide_id]
            return good_row(slide_id, slide.facts(), slide.thumbnail)
        except StoreError as error:
            return bad_row(slide_id, error.problem)

    def _folder(self, slide_id: str) -> StoragePath:
        if not _is_name(slide_id):
            raise StoreError(f"{slide_id!r} is no name of a slide in a tile store", "Use a name without slashes")
        return self.path / slide_id


def _is_name(slide_id: str) -> bool:
    return bool(slide_id) and not slide_id.startswith(".") and Path(slide_id).name == slide_id


def _is_free(path: Path) -> bool:
    """Check whether there is nothing at a path, or a directory with at most a store's slides, metadata and lease."""
    if not path.is_dir():
        return not path.exists()
    return all(
        entry.name.startswith(".") or entry.name == "zarr.json" or (entry / "maps" / "kept").is_dir()
        for entry in path.iterdir()
    )
