"""Brings registered pairs into tile stores: slides are tiled, patches imported, tile stores taken as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, assert_never

from pipelines.evaluate.tasks import receipts_of
from pipelines.run_directory.usable_slides import find_usable_slides
from pipelines.shared.config import RunConfig
from pipelines.shared.progress import Progress
from pipelines.shared.space import DiskSpace, stored_tile_bytes
from pipelines.tile import tile_slides
from wsi_stain.core.errors import ConfigError
from wsi_stain.datasets.images import find_folders
from wsi_stain.datasets.importing import ImportTask, import_slide
from wsi_stain.evaluation.tile_choice import match_patches
from wsi_stain.executor import WHOLE_SLIDE, Executor, Task
from wsi_stain.slides.listing.find import find_slides
from wsi_stain.slides.listing.names import slide_id
from wsi_stain.stain.pool import pool_by_group
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import StoredSlide, TileStore

Pool = Literal["group", "folder", "all"]
"""Which sources share stain statistics: those of one group, as the slide list says; of one folder; all."""

_PICTURES = (".png", ".jpg", ".jpeg")
_SHOWN = 3
"""Most patches that are named where some are left out."""

_NAMES = "Give both of a pair the same name and place in its directory"


@dataclass(frozen=True)
class Pair:
    """One pair.

    Attributes:
        source: The slide to be normalized: its folder in a tile store.
        truth: The same tissue in the reference's stain, likewise.
        normalized: The source as it was normalized before; a slide's file, or a folder in a tile store.
        stain: What to take for the source's stain where it shares statistics with others.
    """

    source: Path
    truth: Path
    normalized: Path | None
    stain: StainStatistics | None = None


@dataclass(frozen=True)
class Pairing:
    """Reader of directories of pairs.

    Attributes:
        work: Directory for tile stores.
        config: How slides are tiled and stain measured.
        patch_mpp: Resolution of patches, um per px; slides know their own.
        executor: Where the work runs.
        pool: Which sources share stain statistics.
        progress: Where it is shown.
    """

    work: Path
    config: RunConfig
    patch_mpp: float | None
    pool: Pool
    executor: Executor
    progress: Progress

    def find(self, source: Path, truth: Path, normalized: Path | None) -> dict[str, Pair]:
        """Find the pairs by name.

        Args:
            source: Slides, patches or a tile store of one laboratory.
            truth: The same tissue in the reference's stain, under the same names; a single slide may have another.
            normalized: The source as it was normalized before, under the same names.

        Raises:
            ConfigError: There is no pair, or patches do not agree.
        """
        sources, truths = self.ensure_stored(source, "source"), self.ensure_stored(truth, "truth")
        if len(sources) == len(truths) == 1:
            truths = dict(zip(sources, truths.values(), strict=True))
        earlier = self._find_normalized(normalized) if normalized is not None else {}
        for name in sorted(sources.keys() ^ truths.keys()):
            self.progress.report(f"{name}: left out: only {source if name in sources else truth} has it")
        stains = self._pool_stains(sources)
        pairs = {
            name: Pair(sources[name], truths[name], earlier.get(name), stains.get(name))
            for name in sources
            if name in truths
        }
        if not pairs:
            raise ConfigError(f"Nothing in {source} has its pair in {truth}", _NAMES)
        for name, pair in pairs.items():
            if normalized is not None and pair.normalized is None:
                raise ConfigError(f"{normalized} has no {name}", _NAMES)
        comparable = {name: pair for name, pair in pairs.items() if self._has_common_patches(name, pair)}
        if not comparable:
            raise ConfigError(f"No patch of {source} is in {truth} at the same size", _NAMES)
        return comparable

    def ensure_stored(self, path: Path, name: str) -> dict[str, Path]:
        """Return the slides at a path by name, as folders in a tile store; where it is none, a store `name` is made."""
        if (path / "zarr.json").exists():
            return {_stem(slide.record.relative): path / slide.slide_id for slide in find_usable_slides(path).slides}
        store = self.work / f"{name}.zarr"
        TileStore.create(store)
        return self._import_patches(path, store) if _has_pictures(path) else self._tile(path, store)

    def _has_common_patches(self, name: str, pair: Pair) -> bool:
        """Report the patches of a pair that not all have; whether it is no pair of patches, or some are left."""
        folders = [folder for folder in (pair.source, pair.truth, pair.normalized) if folder and folder.is_dir()]
        matches = match_patches([StoredSlide(folder) for folder in folders])
        if matches is None:
            return True
        if matches.left_out:
            shown, more = ", ".join(matches.left_out[:_SHOWN]), len(matches.left_out) - _SHOWN
            self.progress.report(
                f"{name}: {len(matches.left_out)} patches are left out, since not all have them at the same size: "
                f"{shown}{f' and {more} more' if more > 0 else ''}"
            )
        return bool(matches.places)

    def _pool_stains(self, sources: Mapping[str, Path]) -> dict[str, StainStatistics]:
        """Pool the stain of sources that share statistics with others, by name."""
        slides = {name: StoredSlide(folder) for name, folder in sources.items()}
        groups = {name: self._group(name, slide) for name, slide in slides.items()}
        pooled = pool_by_group({name: slide.stain for name, slide in slides.items() if slide.stain}, groups)
        for group in sorted({str(groups[name]) for name in pooled}):
            count = sum(groups[name] == group for name in pooled)
            self.progress.report(f"stain is measured for {count} sources of the group {group} together")
        return pooled

    def _group(self, name: str, slide: StoredSlide) -> str | None:
        match self.pool:
            case "group":
                return slide.record.group
            case "folder":
                return PurePosixPath(name).parent.as_posix()
            case "all":
                return "all"
            case other:
                assert_never(other)

    def _tile(self, path: Path, store: Path) -> dict[str, Path]:
        sources = find_slides([path], warn=self.progress.warn)
        space = DiskSpace(store, stored_tile_bytes(self.config), self.config.space_wait_s, self.progress.report)
        results = tile_slides(self.executor, sources, store, self.config.tiling, self.progress, space)
        done = {result.key for result in results if result.error is None}
        return {_stem(source.relative): store / source.slide_id for source in sources if source.slide_id in done}

    def _import_patches(self, path: Path, store: Path) -> dict[str, Path]:
        if self.patch_mpp is None:
            raise ConfigError(f"The resolution of the patches in {path} is not known", "Give --mpp, um per px")
        patch_folders = find_folders(path, labelled=False)
        folders = {folder.root.relative_to(path).as_posix().replace(".", "patches"): folder for folder in patch_folders}
        tiling = self.config.tiling
        tasks = {
            name: Task(
                import_slide,
                ImportTask(folder, store, self.patch_mpp, "--mpp", tiling.tissue, tiling.stain),
                "import",
                WHOLE_SLIDE,
            )
            for name, folder in folders.items()
        }
        done = receipts_of(self.executor, tasks, self.progress)
        return {name: store / slide_id(folders[name].relative) for name in done}

    def _find_normalized(self, path: Path) -> dict[str, Path]:
        """Find what an earlier run made: patches, slides, or the output directory of `run`."""
        if _has_pictures(path) and not (path / "slides").is_dir():
            return self.ensure_stored(path, "normalized")
        root = path / "slides" if (path / "slides").is_dir() else path
        files = [file for file in sorted(root.rglob("*")) if file.is_file()] if root.is_dir() else [root]
        return {_stem(file.relative_to(root).as_posix() if file != root else file.name): file for file in files}


def _has_pictures(path: Path) -> bool:
    return path.is_dir() and any(file.suffix.lower() in _PICTURES for file in path.rglob("*"))


def _stem(relative: str) -> str:
    path = PurePosixPath(relative)
    for suffix in (".ome.tiff", ".ome.tif", path.suffix):
        if suffix and path.name.lower().endswith(suffix.lower()):
            return path.with_name(path.name[: -len(suffix)]).as_posix()
    return path.as_posix()
