"""Registered pairs: the same tissue as two laboratories show it, one normalized and compared with the other.

A pair is two slides of tile stores with one frame; patches are slides, too, in which each patch is judged by itself.
Memory bound: the judged tiles of source, truth and one method, 10 blocks of 1024 px each, 32 MB, and the oracle's sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.arrays import RgbImage
from wsi_stain.core.geometry import Region
from wsi_stain.evaluation.methods import NORMALIZED, ORACLE, OTHERS, STATISTICS, UNTOUCHED, Method
from wsi_stain.evaluation.paired_table import by_other_patches, fit_counted, fit_paired
from wsi_stain.evaluation.picture import darkest, write_strip
from wsi_stain.evaluation.tile_choice import has_patches, scored_places
from wsi_stain.metrics.chromatin import contrast_kept, nuclear_detail
from wsi_stain.metrics.colour_difference import ciede2000
from wsi_stain.metrics.image import lab_wasserstein_windows, psnr, share_of_gap, ssim, texture
from wsi_stain.metrics.nuclei import nuclei_mask
from wsi_stain.metrics.structure import shift_px
from wsi_stain.pix2pix.gpu import translate_device_errors
from wsi_stain.slides.slide import Slide
from wsi_stain.stain.beer_lambert import apply_statistics
from wsi_stain.stain.colour_table import apply_table
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import StoredSlide

Scores = dict[str, list[float]]

GAPS = ("psnr", "ssim", "ciede2000", "lab_wasserstein_64")
"""The scores against the truth, of which the share of the gap is reported as well."""

NUCLEAR = ("nuclear_contrast", "nuclear_contrast_truth", "nuclear_dark", "nuclear_dark_truth")
"""Scores of a whole pair: the contrast within nuclei as a share of the source's and of the truth's; the share of dark
nuclear pixels, and by how much that exceeds the truth's. See `metrics/chromatin`."""

COLUMNS = ("psnr", "ssim", "ciede2000", "worst_decile", "lab_wasserstein_64", "structure", "texture", *NUCLEAR)
"""PSNR in dB and SSIM of luminance, higher is better; mean CIEDE2000, and of the worst tenth of tiles; Lab-Wasserstein
in windows of 64 px; SSIM of luminance to the source; power in the highest octave over the truth's, 1 is right."""

_BEST_PSNR = 99.0
_EVERY = 4
_ALIKE = 32


class RegionReader(Protocol):
    """Anything with pixels."""

    def read(self, region: Region) -> RgbImage:
        """Read RGB pixels, (height, width, 3)."""


@dataclass(frozen=True, kw_only=True)
class PairTask:
    """Judge one pair.

    Attributes:
        name: Of the pair.
        source: The slide to be normalized: its folder in a tile store.
        truth: The same tissue as the reference's laboratory shows it.
        methods: What is compared.
        stain: What to take for the source's stain, such as its group's; None takes its own.
        reference: Stain of the reference, to which the statistics alone bring the source.
        others: What `count_colours` left of the other pairs; none where there is no other pair.
        normalized: The source as an earlier run made it: a slide's file, or a folder in a tile store.
        blocks: Most blocks of 1024 px to judge; patches are judged all.
        strip: Where a picture of one place goes, a column a method.
    """

    name: str
    source: Path
    truth: Path
    methods: Sequence[Method]
    stain: StainStatistics | None = None
    reference: StainStatistics
    others: Sequence[Path] = ()
    normalized: Path | None = None
    blocks: int = 10
    strip: Path


class PairScores(TypedDict):
    """Receipt of a `PairTask`.

    Attributes:
        name: Of the pair.
        shift_px: How far source and truth lie apart, None where they do not agree.
        scores: By method and score one value a tile.
    """

    name: str
    shift_px: float | None
    scores: dict[str, Scores]


@translate_device_errors
def score_pair(task: PairTask) -> PairScores:
    """Do a `PairTask`.

    Raises:
        SlideError: The two have different frames, or nothing to compare.
        StainError: A slide's stain was not measured.
        CheckpointError: A model does not fit.
        DeviceMemoryError: The device's memory does not suffice.
        BrokenDeviceError: The GPU failed.
    """
    source, truth = StoredSlide(task.source), StoredSlide(task.truth)
    stored = [StoredSlide(task.normalized)] if task.normalized is not None and task.normalized.is_dir() else []
    regions, *others = map(list, zip(*scored_places([source, truth, *stored], task.blocks), strict=True))
    own, wanted = task.stain or source.require_stain(), truth.require_stain()
    before, target = (
        [slide.read(region) for region in places] for slide, places in ((source, regions), (truth, others[0]))
    )
    scores: dict[str, Scores] = {}
    index = darkest(before)
    pictures: dict[str, RgbImage] = {"truth": target[index]}
    judge_nuclei = _nuclei_judge(before, target, source.mpp.mean)

    def judge(name: str, made: Sequence[RgbImage]) -> None:
        scores[name] = _scores(made, target, before) | judge_nuclei(made)
        pictures[name] = made[index]

    judge(UNTOUCHED, before)
    judge(STATISTICS, [apply_statistics(pixels, own, task.reference) for pixels in before])
    for method in task.methods:
        reader = method.open_normalized(source, own)
        judge(method.name, [reader.read(region) for region in regions])
    if task.normalized is not None:
        with open_readable(task.normalized) as made:
            judge(NORMALIZED, [made.read(region) for region in (others[1] if stored else regions)])
    if task.others:
        table = fit_counted(task.others)
        judge(OTHERS, [apply_table(table, pixels) for pixels in before])
    elif has_patches(source) and len(before) > 1:
        judge(OTHERS, by_other_patches(before, target, own.white, wanted.white))
    judge(ORACLE, oracle(before, target, own, wanted))
    write_strip(task.strip, pictures)
    return {"name": task.name, "shift_px": _shift(before, target), "scores": scores}


@contextmanager
def open_readable(path: Path) -> Iterator[RegionReader]:
    """Open a slide's file, or its folder in a tile store."""
    with ExitStack() as stack:
        yield StoredSlide(path) if path.is_dir() else stack.enter_context(Slide(path))


def oracle(
    before: Sequence[RgbImage], target: Sequence[RgbImage], own: StainStatistics, wanted: StainStatistics
) -> list[RgbImage]:
    """Apply the best table from what a laboratory shows to the truth, fitted on the very pixels it is judged on."""
    table = fit_paired(before, target, own.white, wanted.white)
    return [apply_table(table, pictures) for pictures in before]


def tile_scores(made: RgbImage, truth: RgbImage, source: RgbImage) -> dict[str, float]:
    """Score one tile or patch."""
    half = slice(None, None, 2)
    return {
        "psnr": min(psnr(made, truth), _BEST_PSNR),
        "ssim": ssim(made, truth),
        "ciede2000": sparse_ciede2000(made, truth),
        "lab_wasserstein_64": lab_wasserstein_windows(made[half, half], truth[half, half], side=32),
        "structure": ssim(made, source),
        "texture": texture(made, truth)[-1],
    }


def sparse_ciede2000(made: RgbImage, truth: RgbImage) -> float:
    """Measure mean CIEDE2000 on every fourth row and column: the same verdict in a sixteenth of the time."""
    every = slice(None, None, _EVERY)
    return ciede2000(made[every, every], truth[every, every])


def worst_tenth(errors: NDArray[np.float64]) -> float:
    """Return the mean of the largest tenth, at least one of them."""
    return float(np.sort(errors)[-max(1, len(errors) // 10) :].mean())


def summarize(receipts: Sequence[PairScores]) -> dict[str, dict[str, float]]:
    """Summarize by method the `COLUMNS` over all tiles of all pairs, and for `GAPS` each one's share, `gap_...`."""
    rows = {method: _row([receipt["scores"][method] for receipt in receipts]) for method in receipts[0]["scores"]}
    for row in rows.values():
        for name in GAPS:
            row[f"gap_{name}"] = share_of_gap(row[name], rows[UNTOUCHED][name], rows[ORACLE][name])
    return rows


def _row(scores: Sequence[Scores]) -> dict[str, float]:
    def over(name: str, measure: Callable[[NDArray[np.float64]], Any]) -> float:
        values = np.concatenate([each.get(name, []) for each in scores])
        return float(measure(values)) if len(values) else float("nan")

    worst = over("ciede2000", worst_tenth)
    means = {name: over(name, np.mean) for name in (*GAPS, "structure", *NUCLEAR)}
    row = means | {"worst_decile": worst, "texture": over("texture", np.median)}
    return {name: row[name] for name in COLUMNS}


def _scores(made: Sequence[RgbImage], target: Sequence[RgbImage], before: Sequence[RgbImage]) -> Scores:
    each = [tile_scores(a, b, source) for a, b, source in zip(made, target, before, strict=True)]
    return {name: [scores[name] for scores in each] for name in each[0]}


def _nuclei_judge(
    before: Sequence[RgbImage], target: Sequence[RgbImage], mpp: float
) -> Callable[[Sequence[RgbImage]], Scores]:
    """Return what scores a method's nuclei, one value for each of `NUCLEAR`; none where the source shows hardly any."""
    alike = _alike(before)
    source, truth = (np.stack([images[index] for index in alike]) for images in (before, target))
    nuclei = nuclei_mask(source, mpp)
    own, wanted = (None if nuclei is None else nuclear_detail(tiles, nuclei, mpp) for tiles in (source, truth))

    def judge(made: Sequence[RgbImage]) -> Scores:
        if nuclei is None or own is None or wanted is None:
            return {}
        found = nuclear_detail(np.stack([made[index] for index in alike]), nuclei, mpp)
        assert found is not None  # the nuclei are the source's, and there are enough of them
        contrasts = contrast_kept(found, own), contrast_kept(found, wanted)
        values = (*contrasts, found.dark, found.dark - wanted.dark)
        return {name: [value] for name, value in zip(NUCLEAR, values, strict=True) if value is not None}

    return judge


def _shift(before: Sequence[RgbImage], target: Sequence[RgbImage]) -> float | None:
    alike = _alike(before)
    return shift_px(*(np.stack([images[index] for index in alike]) for images in (before, target)))


def _alike(images: Sequence[RgbImage]) -> list[int]:
    """List which of the images, 32 at most, have the size of the first."""
    return [index for index, pixels in enumerate(images) if pixels.shape == images[0].shape][:_ALIKE]
