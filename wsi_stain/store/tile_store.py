"""The store as a whole: which slides are in it. Knows no pixels."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wsi_stain import __version__, zarr_files
from wsi_stain.errors import StoreError
from wsi_stain.geometry import TILE
from wsi_stain.place import Place, S3Path, as_place, folders
from wsi_stain.store.reading import StoredSlide
from wsi_stain.store.record import FORMAT, is_complete
from wsi_stain.store.writing import SlideWriter

_REMEDY = "Check the path, or choose another directory: `wsi-stain tile` makes a tile store"
_THREADS = 16


class TileStore:
    """A tile store: read from a directory or from `s3://bucket/prefix`, written to a directory.

    Args:
        path: The directory, or the URL.

    Raises:
        StoreError: There is no tile store, or one of another format, or S3 cannot be read.
    """

    def __init__(self, path: str | Place) -> None:
        self.path = as_place(path)
        found = zarr_files.read_attributes(self.path)
        if found.get("format") != FORMAT or found.get("tile") != TILE:
            shown = f"format {found['format']}" if "format" in found else "none"
            raise StoreError(f"Expected a tile store of format {FORMAT} at {path}, found {shown}", _REMEDY)

    @classmethod
    def create(cls, path: Path) -> TileStore:
        """Open the store at a path, or make an empty one where there is nothing yet."""
        free = _is_free(path)  # looked at first: another process may be making the store, metadata first
        if not (path / "zarr.json").exists():
            if not free:
                raise StoreError(f"{path} exists and is not a tile store", _REMEDY)
            attributes = {"format": FORMAT, "tile": TILE, "producer": f"wsi-stain {__version__}"}
            zarr_files.write_group(path, attributes)
        return cls(path)

    def slide_ids(self) -> list[str]:
        """Names of the complete slides, sorted."""
        found = folders(self.path)
        with ThreadPoolExecutor(_THREADS) as threads:  # each look is a request where the store is remote
            complete = threads.map(lambda name: is_complete(self.path / name), found)
            return [name for name, there in zip(found, complete, strict=True) if there]

    def __getitem__(self, slide_id: str) -> StoredSlide:
        """A complete slide; StoreError where there is none of that name."""
        return StoredSlide(self._folder(slide_id))

    def writer(self, slide_id: str) -> SlideWriter:
        """What makes one slide of the store; StoreError where the store is not a local directory."""
        folder = self._folder(slide_id)
        if isinstance(folder, S3Path):
            raise StoreError(f"{self.path} can only be read", "Write a local tile store, then upload it")
        return SlideWriter(folder)

    def drop_tiles(self, slide_id: str) -> None:
        """Remove a slide from the store, if it is there."""
        self.writer(slide_id).remove()

    def _folder(self, slide_id: str) -> Place:
        if not slide_id or slide_id.startswith(".") or Path(slide_id).name != slide_id:
            raise StoreError(f"{slide_id!r} is no name of a slide in a tile store", "Use a name without slashes")
        return self.path / slide_id


def _is_free(path: Path) -> bool:
    """Whether there is nothing at a path, or a directory with at most hidden files such as a lease."""
    if not path.is_dir():
        return not path.exists()
    return all(entry.name.startswith(".") for entry in path.iterdir())
