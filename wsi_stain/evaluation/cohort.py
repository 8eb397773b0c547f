"""A cohort without truth: likeness of its slides to each other and to the reference, before and after each method.

Colours are compared within nuclei and within stroma as well: over all tissue, a method that copies the reference's
composition would be rewarded. Both are found in the source, and every method is judged on the same pixels.
Memory bound: the judged tiles of the source and of one method, 6 blocks of 1024 px each, and a dozen float maps of
them: 0.5 GB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from wsi_stain.core.arrays import Mask, Rgb, RgbTiles
from wsi_stain.core.errors import NoTissueError, OutputError, StoreError
from wsi_stain.core.geometry import TileIndex, tile_region
from wsi_stain.core.storage import StoragePath, storage_path
from wsi_stain.evaluation.methods import NORMALIZED, UNTOUCHED, Method
from wsi_stain.evaluation.picture import darkest, write_strip
from wsi_stain.evaluation.tile_choice import choose_scored_tiles
from wsi_stain.metrics.chromatin import NuclearDetail, contrast_kept, mean_detail, nuclear_detail
from wsi_stain.metrics.image import lab_wasserstein, normalized_median_intensity, spread
from wsi_stain.metrics.nuclei import find_source_nuclei, nuclei_mask
from wsi_stain.pix2pix.gpu import translate_device_errors
from wsi_stain.results.finished import FinishedSlide, load_finished
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.slides.slide import Slide
from wsi_stain.stain.statistics import StainStatistics, od_table
from wsi_stain.stain.vectors import angle_deg, could_be_he, macenko
from wsi_stain.store import StoredSlide, TiledSlide
from wsi_stain.store.artifact import load_artifact, save_artifact
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.streamed_slide import survey_streamed

STRATA = ("tissue", "nuclei", "stroma")
COLUMNS = (
    *("nmi", "nmi_sd", "nmi_cv", "lab_wasserstein_tissue", "lab_wasserstein_nuclei", "lab_wasserstein_stroma"),
    *("angle_hematoxylin", "angle_eosin", "nuclei_kept", "seam"),
    *("nuclear_contrast", "nuclear_contrast_reference", "nuclear_dark", "nuclear_dark_reference"),
)
"""Normalized median intensity and its spread over slides; distances to the reference, the sum over L*, a* and b*;
angles of stain vectors from the reference's, degrees; share of the source's nuclei that is kept; seam score, 1 is
perfect; the contrast within nuclei as a share of the source's and of the reference's, the share of dark nuclear pixels,
and by how much that exceeds the reference's, see `metrics/chromatin`."""

_BLOCKS = 6
_STAINED_OD = 0.15
_PIXELS = 50_000
_TAIL = 0.015
_BORDER_UM = 2.0
_LEAST = 500


@dataclass(frozen=True, kw_only=True)
class CohortTask:
    """Judge one slide.

    Attributes:
        name: Of the slide.
        stored: Its folder in a tile store; None where a run's output says what it was made from.
        finished: Its corner of the output directory of a run; None where it was not normalized yet.
        pyramid: What that run made of it.
        methods: What is compared.
        reference: What `save_reference` wrote; None where nothing is compared with a reference.
        strip: Where a picture of one place goes, a column a method.
    """

    name: str
    stored: StoragePath | None = None
    finished: Path | None = None
    pyramid: Path | None = None
    methods: Sequence[Method]
    reference: Path | None
    strip: Path


class SlideScores(TypedDict):
    """Receipt of a `CohortTask`.

    Attributes:
        name: Of the slide.
        scores: By method and score a value; a score that cannot be had is left out.
    """

    name: str
    scores: dict[str, dict[str, float]]


@translate_device_errors
def score_slide(task: CohortTask) -> SlideScores:
    """Do a `CohortTask`.

    Raises:
        NoTissueError: The slide has no tissue to judge.
        StainError: Its stain was not measured.
        OutputError: The source that a run used is gone.
        CheckpointError: A model does not fit.
        DeviceMemoryError: The device's memory does not suffice.
        BrokenDeviceError: The GPU failed.
    """
    reference = load_artifact(task.reference) if task.reference is not None else {}
    with _open_slide(task) as (slide, stain):
        tiles = choose_scored_tiles(slide, _BLOCKS)
        if not tiles:
            raise NoTissueError(f"{task.name} has no tissue to judge", "Leave it out")
        before, mpp = _read(slide, tiles), slide.mpp.mean
        nuclei = find_source_nuclei(before, mpp)
        strata = find_strata(before, stain.white, mpp, nuclei.mask if nuclei else None)
        pictures: dict[str, RgbTiles] = {}
        scores, place = {}, darkest(before)
        own = nuclear_detail(before, strata["nuclei"], mpp)

        def judge(name: str, pixels_made: RgbTiles, white: Rgb) -> None:
            pictures[name] = pixels_made[place]
            scores[name] = _scores(pixels_made, strata, white, reference)
            found = nuclear_detail(pixels_made, strata["nuclei"], mpp)
            if own and found:
                scores[name] |= _nuclear_scores(found, own, reference)
            if name != UNTOUCHED and nuclei and (kept := nuclei.measure_kept(pixels_made)) is not None:
                scores[name]["nuclei_kept"] = kept

        judge(UNTOUCHED, before, stain.white)
        for method in task.methods:
            reader = method.open_normalized(slide, stain)
            judge(method.name, _read(reader, tiles), reader.white)
        if task.pyramid is not None:
            with Slide(task.pyramid) as pyramid:
                pixels_made = _read(pyramid, tiles)
            judge(NORMALIZED, pixels_made, _white_of(reference, stain.white))
            finished = load_finished(task.finished) if task.finished else None
            if finished and finished.row.seam:
                scores[NORMALIZED]["seam"] = finished.row.seam.score
    write_strip(task.strip, pictures)
    return {"name": task.name, "scores": scores}


def save_reference(path: Path, slides: Sequence[StoredSlide], stain: StainStatistics) -> None:
    """Keep what slides are compared with: pixels of the reference by stratum, its stain vectors and its white.

    Args:
        path: The file.
        slides: Of the reference; each gives the same number of pixels.
        stain: Of the reference.

    Raises:
        NoTissueError: They have no tissue.
    """
    pixels: dict[str, list[RgbTiles]] = {name: [] for name in STRATA}
    details = []
    for slide in slides:
        tiles = choose_scored_tiles(slide, _BLOCKS)
        if not tiles or slide.stain is None:
            continue
        read = _read(slide, tiles)
        mpp = slide.mpp.mean
        strata = find_strata(read, slide.stain.white, mpp, nuclei_mask(read, mpp))
        for name, mask in strata.items():
            pixels[name].append(_thin_out(read[mask], _PIXELS // len(slides)))
        if detail := nuclear_detail(read, strata["nuclei"], mpp):
            details.append(detail)
    if not pixels["tissue"]:
        raise NoTissueError("The reference has no tissue to compare with", "Choose another --reference")
    arrays = {name: np.concatenate(parts) for name, parts in pixels.items()}
    arrays |= {"vectors": np.asarray(stain.vectors), "white": np.asarray(stain.white)}
    if mean := mean_detail(details):
        arrays |= {name: np.asarray(value) for name, value in mean.model_dump().items()}
    save_artifact(path, arrays)


def find_strata(tiles: RgbTiles, white: Rgb, mpp: float, nuclei: Mask | None) -> dict[str, Mask]:
    """Find masks, (n, h, w): `tissue`, what is stained; `nuclei` in it; `stroma`, the rest without nuclei's borders."""
    table = od_table(white)
    tissue = sum(table[tiles[..., c], c] for c in range(3)) / 3 > _STAINED_OD
    if nuclei is None:
        nuclei = np.zeros_like(tissue)
    around = np.stack([binary_dilation(mask, iterations=max(1, round(_BORDER_UM / mpp))) for mask in nuclei])
    return {"tissue": tissue, "nuclei": nuclei & tissue, "stroma": tissue & ~around}


def summarize(receipts: Sequence[SlideScores]) -> dict[str, dict[str, float]]:
    """Summarize by method the `COLUMNS`: means over slides, and the spread of `nmi`; NaN for what no slide has."""
    rows = {}
    for method in receipts[0]["scores"]:
        scored = [receipt["scores"][method] for receipt in receipts if method in receipt["scores"]]
        values = {name: [scores[name] for scores in scored if name in scores] for name in COLUMNS}
        row = {name: float(np.mean(each)) if each else float("nan") for name, each in values.items()}
        row["nmi_sd"], row["nmi_cv"] = spread(values["nmi"])
        rows[method] = row
    return rows


def _scores(
    pixels_made: RgbTiles, strata: Mapping[str, Mask], white: Rgb, reference: Mapping[str, NDArray[Any]]
) -> dict[str, float]:
    scores = {"nmi": normalized_median_intensity(pixels_made[strata["tissue"]])}
    if not reference:
        return scores
    for name in STRATA:
        pixels = _thin_out(pixels_made[strata[name]], _PIXELS)
        if min(len(pixels), len(reference[name])) >= _LEAST:
            scores[f"lab_wasserstein_{name}"] = sum(lab_wasserstein(pixels, reference[name]))
    if strata["tissue"].sum() >= _LEAST:
        vectors = _vectors(_thin_out(pixels_made[strata["tissue"]], _PIXELS), white)
        for name, own, expected in zip(("hematoxylin", "eosin"), vectors, reference["vectors"], strict=True):
            scores[f"angle_{name}"] = angle_deg(own, expected)
    return scores


def _nuclear_scores(
    after: NuclearDetail, before: NuclearDetail, reference: Mapping[str, NDArray[Any]]
) -> dict[str, float]:
    scores = {"nuclear_contrast": contrast_kept(after, before), "nuclear_dark": after.dark}
    if "contrast" in reference:
        wanted = NuclearDetail(**{name: float(reference[name]) for name in NuclearDetail.model_fields})
        scores["nuclear_contrast_reference"] = contrast_kept(after, wanted)
        scores["nuclear_dark_reference"] = after.dark - wanted.dark
    return {name: value for name, value in scores.items() if value is not None}


def _vectors(pixels: RgbTiles, white: Rgb) -> tuple[Rgb, Rgb]:
    table = od_table(white)
    od = np.stack([table[pixels[:, c], c] for c in range(3)], axis=-1)
    return macenko(od[could_be_he(od)], _TAIL)


def _thin_out(pixels: RgbTiles, count: int) -> RgbTiles:
    """Return at most `count` of the pixels, (N, 3), evenly spaced."""
    spaced: RgbTiles = pixels[np.linspace(0, len(pixels) - 1, min(count, len(pixels))).astype(np.intp)]
    return spaced


def _read(slide: Any, tiles: Sequence[TileIndex]) -> RgbTiles:
    return np.stack([slide.read(tile_region(tile)) for tile in tiles])


def _white_of(reference: Mapping[str, NDArray[Any]], own: Rgb) -> Rgb:
    red, green, blue = (float(value) for value in reference["white"]) if reference else own
    return red, green, blue


@contextmanager
def _open_slide(task: CohortTask) -> Iterator[tuple[TiledSlide, StainStatistics]]:
    """Open the source, with its stain: from a tile store, or whatever a finished run says that it was made from."""
    if task.stored is not None:
        stored = StoredSlide(task.stored)
        yield stored, stored.require_stain()
        return
    finished = load_finished(task.finished) if task.finished is not None else None
    if finished is None or finished.row.stain is None:
        raise OutputError(f"What the run kept of {task.name} cannot be read", "Run the same command again")
    with _find_source(finished, task.name) as source:
        yield source, finished.row.stain


def _find_source(finished: FinishedSlide, name: str) -> TiledSlide:
    """Open the slide's file as the run read it, else its tiles."""
    origin = finished.origin
    if origin.slide is not None and origin.slide.exists():
        listed = SlideSource(path=origin.slide, slide_id=finished.row.slide_id, relative=finished.row.slide)
        return survey_streamed(listed, TilingConfig(slide=origin.reading))
    with suppress(StoreError):
        if origin.tiles is not None:
            return StoredSlide(storage_path(origin.tiles))
    raise OutputError(
        f"The source of {name} is gone: neither {origin.slide} nor its tiles are there",
        "Put the slide back, or evaluate a tile store: wsi-stain evaluate cohort STORE",
    )
