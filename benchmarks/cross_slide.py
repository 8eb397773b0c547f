"""How near two real slides of different scanners come: trained on either one, the other normalized to it.

    python benchmarks/cross_slide.py STORE SLIDE_ID SLIDE_ID WORKDIR [--config small] [--changes key=value,...]

There is no truth pixel by pixel, and the slides show different tissue, so that even a perfect method leaves a distance.
Printed is, for each method and direction, the sum of the Wasserstein-1 distances of L*, a* and b* between what it makes
of ten blocks rich in tissue and ten such blocks of the reference. A trained generator in WORKDIR is kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from slide_parts import Part, apply_to_block, block_region, blocks_of, keep_pixels, methods, train_variant

from wsi_stain.core.geometry import TileIndex
from wsi_stain.metrics.image import lab_wasserstein
from wsi_stain.store import StoredSlide, TileStore
from wsi_stain.store.stain_sample import measure_stain

_THINNED = 5
"""Distributions are compared on every fifth row and column."""


def whole(stored: StoredSlide) -> Part:
    """A slide as it is."""
    return Part(stored, np.ones_like(stored.kept), keep_pixels)


def sample(images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """(N, 1, 3): the images' pixels, thinned."""
    return np.concatenate([image[::_THINNED, ::_THINNED].reshape(-1, 1, 3) for image in images])


def distances(
    reference: Part, other: Part, blocks: list[TileIndex], target: NDArray[np.uint8], checkpoint: Path
) -> None:
    """Print a row for each method."""
    stain = measure_stain(other, other.record.stain_config)  # type: ignore[arg-type]

    def show(name: str, images: list[NDArray[np.uint8]]) -> None:
        print(f"  {name:20}{sum(lab_wasserstein(sample(images), target)):8.2f}", flush=True)

    show("untouched", [other.read(block_region(block)) for block in blocks])
    for name, load in methods(reference, {"wsi-stain": checkpoint}).items():
        normalizer = load()
        artifact = normalizer.prepare(other, stain)
        show(name, [apply_to_block(normalizer, other, block, artifact) for block in blocks])


def main() -> None:
    """Train what is missing, measure both directions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("slides", nargs=2)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--config", default="small")
    parser.add_argument("--changes", default="")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    store = TileStore(asked.store)
    for mine, others in (asked.slides, asked.slides[::-1]):
        reference, other = whole(store[mine]), whole(store[others])
        checkpoint = train_variant(reference, asked.config, asked.changes, asked.workdir / mine)
        target = sample([reference.read(block_region(block)) for block in blocks_of(store[mine], reference.kept)])
        print(f"{others}, normalized to {mine}")
        distances(reference, other, blocks_of(store[others], other.kept), target, checkpoint)


if __name__ == "__main__":
    main()
