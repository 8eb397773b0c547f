"""The store as a whole: which slides are in it. Knows no pixels."""

from __future__ import annotations

from pathlib import Path

from wsi_stain import __version__, zarr_files
from wsi_stain.errors import StoreError
from wsi_stain.geometry import TILE
from wsi_stain.store.reading import StoredSlide
from wsi_stain.store.record import FORMAT
from wsi_stain.store.writing import SlideWriter

_NEW_STORE = "Choose another directory for the tile store"


class TileStore:
    """A tile store on disk.

    Raises:
        StoreError: There is no tile store at the path, or one of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        found = zarr_files.read_attributes(path)
        if found.get("format") != FORMAT or found.get("tile") != TILE:
            shown = f"format {found['format']}" if "format" in found else "none"
            raise StoreError(f"Expected a tile store of format {FORMAT} at {path}, found {shown}", _NEW_STORE)

    @classmethod
    def create(cls, path: Path) -> TileStore:
        """Open the store at a path, or make an empty one where there is nothing yet."""
        free = _is_free(path)  # looked at first: another process may be making the store, metadata first
        if not (path / "zarr.json").exists():
            if not free:
                raise StoreError(f"{path} exists and is not a tile store", _NEW_STORE)
            attributes = {"format": FORMAT, "tile": TILE, "producer": f"wsi-stain {__version__}"}
            zarr_files.write_group(path, attributes)
        return cls(path)

    def slide_ids(self) -> list[str]:
        """Names of the complete slides, sorted."""
        folders = (entry for entry in self.path.iterdir() if not entry.name.startswith(".") and entry.is_dir())
        return sorted(folder.name for folder in folders if "wsi_stain" in zarr_files.read_attributes(folder))

    def __getitem__(self, slide_id: str) -> StoredSlide:
        """A complete slide; StoreError where there is none of that name."""
        return StoredSlide(self._folder(slide_id))

    def writer(self, slide_id: str) -> SlideWriter:
        """What makes one slide of the store."""
        return SlideWriter(self._folder(slide_id))

    def drop_tiles(self, slide_id: str) -> None:
        """Remove a slide from the store, if it is there."""
        self.writer(slide_id).remove()

    def _folder(self, slide_id: str) -> Path:
        if not slide_id or slide_id.startswith(".") or Path(slide_id).name != slide_id:
            raise StoreError(f"{slide_id!r} is no name of a slide in a tile store", "Use a name without slashes")
        return self.path / slide_id


def _is_free(path: Path) -> bool:
    """Whether there is nothing at a path, or a directory with at most hidden files such as a lease."""
    if not path.is_dir():
        return not path.exists()
    return all(entry.name.startswith(".") for entry in path.iterdir())
