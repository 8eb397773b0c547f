"""The paths below an output directory.

OUT/slides/<relative path>.ome.tif   one pyramid a slide, or .ome.zarr, .dicom
OUT/summary.csv  run.json  report/   what happened
OUT/tiles.zarr  patches/             the same for those who feed models, where that is asked for
OUT/training                         checkpoint.safetensors, metrics.csv, panels/
OUT/logs                             what libraries and workers had to say, if anything
OUT/work                             tile stores, blocks, receipts: what a rerun resumes from
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipelines.shared.formats import SUFFIXES
from wsi_stain.core.journal import atomic_write
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.slides.listing.names import collision_key, safe_path
from wsi_stain.slides.listing.search import OUTPUT_MARK


@dataclass(frozen=True)
class Workspace:
    """The directories of one run."""

    out: Path

    @property
    def summary(self) -> Path:
        """The table of all slides; there once a run ended."""
        return self.out / "summary.csv"

    @property
    def record(self) -> Path:
        """The run record: configuration, versions, hashes, slides; there once the checkpoint is."""
        return self.out / "run.json"

    @property
    def logs(self) -> Path:
        """The folder of what libraries and workers had to say; there if they said anything."""
        return self.out / "logs"

    @property
    def tiles(self) -> Path:
        """The tile store of the slides to normalize."""
        return self.out / "work" / "tiles.zarr"

    @property
    def normalized_tiles(self) -> Path:
        """The tile store in the reference's stain, where one is asked for."""
        return self.out / "tiles.zarr"

    @property
    def patches(self) -> Path:
        """The folder of patches in the reference's stain, as pictures."""
        return self.out / "patches"

    @property
    def imported_patches(self) -> Path:
        """The tile store of patches that were given as pictures."""
        return self.out / "work" / "patches.zarr"

    @property
    def reference(self) -> Path:
        """The tile store of the reference slides; never dropped."""
        return self.out / "work" / "reference.zarr"

    @property
    def laboratory(self) -> Path:
        """The file of the simulated laboratory that the slides are shown as."""
        return self.out / "work" / "laboratory.json"

    @property
    def reference_choice(self) -> Path:
        """The file of the reference that the cohort gave, see `choose_auto_reference`."""
        return self.out / "work" / "reference_choice.json"

    @property
    def training(self) -> Path:
        """The folder of training's checkpoint, metrics and panels."""
        return self.out / "training"

    @property
    def classical_reference(self) -> Path:
        """The file of what a classical method took from the reference."""
        return self.out / "work" / "classical_reference.json"

    def mark(self) -> None:
        """Mark the directory as a run's output, so that no search for slides enters it."""
        if not (self.out / OUTPUT_MARK).exists():
            atomic_write(self.out / OUTPUT_MARK, b"Output of wsi-stain: not searched for slides.\n")

    def slide(self, slide_id: str) -> Path:
        """Return a slide's own folder for artifact, blocks, thumbnails and receipts."""
        return self.out / "work" / "slides" / slide_id

    def survey(self, slide_id: str) -> Path:
        """Return the folder of the survey of a streamed slide, kept until its outputs are finished."""
        return self.slide(slide_id) / "survey"


def output_stems(sources: Sequence[SlideSource], portable: bool) -> dict[str, PurePosixPath]:
    """Name each slide id's outputs, relative to OUT, without suffix: slides/ and its relative path.

    Slides that would meet (a.svs beside a.tif, or beside a folder a.dicom) keep their own suffix; if they still meet,
    their ids.

    Args:
        sources: The slides.
        portable: Whether Windows and SMB must take the names too.
    """
    named = {source.slide_id: safe_path(_stem(source), portable) for source in sources}
    for distinct in ("relative", "slide_id"):
        claimed = Counter(claim for name in named.values() for claim in _claims(name))
        for source in sources:
            if claimed[collision_key(str(named[source.slide_id]))] > 1:
                named[source.slide_id] = safe_path(PurePosixPath(getattr(source, distinct)), portable)
    return {slide_id: PurePosixPath("slides") / name for slide_id, name in named.items()}


def _claims(stem: PurePosixPath) -> Iterator[str]:
    """List the stems that a slide takes: its own, and those whose outputs its folders are called like."""
    yield collision_key(str(stem))
    for folder in stem.parents:
        for suffix in SUFFIXES.values():
            if folder.name.casefold().endswith(suffix):
                yield collision_key(str(folder)).removesuffix(suffix)


def _stem(source: SlideSource) -> PurePosixPath:
    path = PurePosixPath(source.relative)
    name = path.name
    for suffix in (".ome.tiff", ".ome.tif", ".ome.zarr", path.suffix):
        if suffix and name.lower().endswith(suffix.lower()):
            return path.with_name(name[: -len(suffix)] or name)
    return path
