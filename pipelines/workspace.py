"""What lies where under an output directory.

OUT/slides/<relative path>.ome.tif   one pyramid a slide
OUT/summary.csv  run.json  report/   what happened
OUT/training                         checkpoint.safetensors, metrics.csv, panels/
OUT/work                             tile stores, blocks, receipts: what a rerun resumes from
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wsi_stain.journal import atomic_write
from wsi_stain.slide_search import OUTPUT_MARK
from wsi_stain.slides import SlideSource


@dataclass(frozen=True)
class Workspace:
    """The directories of one run."""

    out: Path

    @property
    def tiles(self) -> Path:
        """The tile store of the slides to normalize."""
        return self.out / "work" / "tiles.zarr"

    @property
    def reference(self) -> Path:
        """The tile store of the reference slides; never dropped."""
        return self.out / "work" / "reference.zarr"

    @property
    def training(self) -> Path:
        """Where training leaves its checkpoint, metrics and panels."""
        return self.out / "training"

    def mark(self) -> None:
        """Mark the directory as a run's output, so that no search for slides enters it."""
        if not (self.out / OUTPUT_MARK).exists():
            atomic_write(self.out / OUTPUT_MARK, b"Output of wsi-stain: not searched for slides.\n")

    def slide(self, slide_id: str) -> Path:
        """A slide's own corner for artifact, blocks, thumbnails and receipts."""
        return self.out / "work" / "slides" / slide_id


def pyramid_names(sources: Sequence[SlideSource]) -> dict[str, PurePosixPath]:
    """Each slide id's pyramid, relative to OUT: slides/, its relative path, .ome.tif for a suffix.

    Slides that would meet (a.svs beside a.tif) keep their own suffix before .ome.tif; if they still meet, their ids.
    """
    named = {source.slide_id: _stem(source) for source in sources}
    for distinct in ("relative", "slide_id"):
        shared = Counter(str(name).casefold() for name in named.values())
        for source in sources:
            if shared[str(named[source.slide_id]).casefold()] > 1:
                named[source.slide_id] = PurePosixPath(getattr(source, distinct))
    return {slide_id: _pyramid(name) for slide_id, name in named.items()}


def _stem(source: SlideSource) -> PurePosixPath:
    path = PurePosixPath(source.relative)
    name = path.name
    for suffix in (".ome.tiff", ".ome.tif", path.suffix):
        if suffix and name.lower().endswith(suffix.lower()):
            return path.with_name(name[: -len(suffix)] or name)
    return path


def _pyramid(path: PurePosixPath) -> PurePosixPath:
    return PurePosixPath("slides") / path.with_name(f"{path.name}.ome.tif")
