"""Parts that compare: a GPU with a CPU, 16 bits with 32, one run with another."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from results import Results
from subjects import Setup

from tests.support.made_store import paint_tissue
from wsi_stain.core.geometry import Size, grid_shape
from wsi_stain.normalizers.generator import GeneratorNormalizer, GuardNormalizer
from wsi_stain.normalizers.lut import TableFit
from wsi_stain.normalizers.predictor import GeneratorPredictor
from wsi_stain.pix2pix.precision import Precision
from wsi_stain.stain.colour_bins import ColourPairs
from wsi_stain.stain.table_fit import fit_table
from wsi_stain.store.artifact import STATISTICS, TABLE, pack_statistics


def correctness(setup: Setup, results: Results) -> None:
    """Compare pictures of the same windows, on the device and on a CPU; the pictures stay."""
    side = 2 * setup.stride_px
    exact = {mode: normalize(setup, "cpu", "float32", mode, side) for mode in ("generator", "guard")}
    for mode, expected in exact.items():
        found = normalize(setup, setup.device, "float32", mode, side)
        unlike = np.abs(found.astype(int) - expected)
        share = float((unlike <= 1).mean())
        results.add(f"{mode}, float32: within 1 level of the CPU", f"{share:.4%}", "99.99 %", share >= 0.9999)
        half = normalize(setup, setup.device, "bfloat16", mode, side)
        again = normalize(setup, setup.device, "bfloat16", mode, side)
        unlike_half = np.abs(half.astype(int) - expected)
        mean, within = float(unlike_half.mean()), float((unlike_half <= 4).mean())
        results.add(f"{mode}, bfloat16: mean distance, levels", f"{mean:.3f}", "0.5", mean < 0.5)
        results.add(f"{mode}, bfloat16: within 4 levels", f"{within:.4%}", "99.9 %", within >= 0.999)
        is_same = bool((half == again).all())
        results.add(f"{mode}, bfloat16: twice", "the same" if is_same else "differs", "the same bytes", is_same)
        show(setup, f"correctness-{mode}", [expected, found, half, np.minimum(32 * unlike_half, 255).astype(np.uint8)])


def normalize(setup: Setup, device: str, precision: Precision, mode: str, side: int) -> NDArray[np.uint8]:
    """Normalize a painted square on a device."""
    predictor = GeneratorPredictor(setup.loaded, device, precision)
    white, hold = (242, 240, 243), {"table": TableFit(predictor, (242, 240, 243)), "hold_radius": 16}
    normalizer = (
        GuardNormalizer(predictor, white, setup.stride_px, radius=32, **hold)
        if mode == "guard"
        else GeneratorNormalizer(predictor, white, setup.stride_px, **hold)
    )
    table = fit_table(ColourPairs(), setup.statistics.white, white)
    pixels = paint_square(side + 2 * normalizer.halo)
    needed = np.ones(grid_shape(Size(side, side)), bool)
    return normalizer.apply(pixels, needed, {STATISTICS: pack_statistics(setup.statistics), TABLE: table})


@cache
def paint_square(side: int) -> NDArray[np.uint8]:
    return paint_tissue(Size(side, side), seed=1)


def same_bytes(setup: Setup, results: Results) -> None:
    """One slide to its pyramid, by other numbers of tasks and processes, and killed and run again."""
    gpus = 0 if setup.is_dry else 1
    ways = {"3 tasks a GPU": {"gpu_tasks": 3}, "1 task a GPU": {"gpu_tasks": 1}, "2 processes": {"gpu_processes": 2}}
    if setup.is_dry:  # processes take their time to start, and without a GPU these settings mean nothing
        ways = {"3 tasks a GPU": {"gpu_tasks": 3}}
    workers = 0 if setup.is_dry else 4
    digests: dict[str, str] = {}
    for way, executor in ways.items():
        done = setup.normalize("same", "generator", workers=workers, gpus=gpus, **executor)
        if done.returncode:
            results.add(way, f"exit code {done.returncode}: {done.stderr[-300:] or done.stdout[-300:]}", "0", False)
            continue
        digests[way] = setup.pyramid_digest("same")
    killed = setup.normalize("killed", "generator", failpoint="before-rename:9", workers=0, gpus=gpus)
    again = setup.normalize("killed", "generator", workers=0, gpus=gpus)
    if killed.returncode != -9 or again.returncode:
        codes = f"exit codes {killed.returncode} and {again.returncode}: {again.stderr[-300:]}"
        results.add("killed in one process, and run again", codes, "-9 and 0", False)
    else:
        digests["killed in one process, and run again"] = setup.pyramid_digest("killed")
    first = next(iter(digests.values()), "")
    for way, digest in digests.items():
        results.add(way, digest[:12], "the same bytes", digest == first)


def show(setup: Setup, name: str, pictures: list[NDArray[np.uint8]]) -> None:
    """Write the middles of pictures side by side as a PNG."""
    half = min(min(picture.shape[:2]) for picture in pictures) // 2
    parts = [picture[half - 128 : half + 128, half - 128 : half + 128] for picture in pictures]
    folder = setup.out / "pictures"
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.concatenate(parts, axis=1)).save(folder / f"{name}.png")
