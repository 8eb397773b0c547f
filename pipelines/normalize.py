"""What `normalize` does with what it is given: a tile store; slides, which are streamed; or patches, imported first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from glob import has_magic
from pathlib import Path

from rich.console import Console

from pipelines import import_patches
from pipelines import run as run_pipeline
from pipelines.normalization import tile_store
from pipelines.run_directory.workspace import Workspace
from wsi_stain.core.errors import ConfigError
from wsi_stain.core.storage import StoragePath


@dataclass(frozen=True)
class Patches:
    """How a directory of patches is to be understood.

    Attributes:
        mpp: Their resolution, um per px; None where there are no patches.
        labelled: Whether a patch's folder is its label; else it is its slide.
    """

    mpp: float | None
    labelled: bool


def show_plan(request: tile_store.Request, patches: Patches, console: Console) -> int:
    """Print what would be normalized; 3 when some of it cannot be."""
    if patches.mpp is not None:
        return import_patches.show_plan(_import_request(request, patches.mpp, patches.labelled), console)
    if _holds_slides(request.store):
        return run_pipeline.show_plan(_as_run(request), console)
    return tile_store.show_plan(request, console)


def run(request: tile_store.Request, patches: Patches, console: Console) -> int:
    """Normalize it.

    Returns:
        0, or 3 when some slides or patches failed.
    """
    if patches.mpp is not None:
        importing = _import_request(request, patches.mpp, patches.labelled)
        tile_store.check_reference(request)
        imported = import_patches.run(importing, console)
        return max(
            imported, tile_store.run(replace(request, store=importing.store, to=request.to or "images"), console)
        )
    if _holds_slides(request.store):
        return run_pipeline.run(_as_run(request), console)
    return tile_store.run(request, console)


def _import_request(request: tile_store.Request, mpp: float, labelled: bool) -> import_patches.Request:
    directory = request.store
    if not isinstance(directory, Path) or not directory.is_dir():
        raise ConfigError(f"{directory} is no directory of patches", "Leave out --patch-mpp for stores and slides")
    if request.out.resolve().is_relative_to(directory.resolve()):
        raise ConfigError(f"The output directory {request.out} lies among the patches", "Choose another --out")
    return import_patches.images(directory, Workspace(request.out).imported, mpp, labelled, request.config)


def _holds_slides(place: StoragePath) -> bool:
    """Whether a place holds slides: it is there, and no Zarr."""
    if not isinstance(place, Path) or (place / "zarr.json").exists():
        return False
    return place.exists() or has_magic(str(place))


def _as_run(request: tile_store.Request) -> run_pipeline.Request:
    """The same as a run that stores no tiles."""
    if request.to not in (None, "pyramids"):
        raise ConfigError(f"--to {request.to} needs tiles, got slides", "Tile them first: wsi-stain tile")
    if request.reference is not None:
        raise ConfigError("--reference was given with slides", "Use wsi-stain run --method, which takes slides for it")
    slides: Sequence[Path] = [Path(str(request.store))]
    config = request.config.model_copy(update={"stream": True})
    return run_pipeline.Request(slides, [], request.checkpoint, request.out, config)
