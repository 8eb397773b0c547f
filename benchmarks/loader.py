"""Whether training waits for its data: the loop as it is, beside the same loop on tensors that are already there.

    python benchmarks/loader.py STORE SLIDE_ID [--config small] [--steps 60] [--rounds 3] [--cache 0]

Both make the same steps of the same networks. One draws, reads, crops and turns tiles of the store, shows them as other
laboratories would, and makes their templates; the other is handed one and the same pair of tensors. They take turns;
printed are each one's median, and how much of the speed is left. `data alone` makes no steps: what the data could feed.
On a GPU when there is one.
"""

from __future__ import annotations

import argparse
import itertools
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import torch
from contest import medians
from torch import Tensor

from pipelines.shared.config import load_config
from wsi_stain.pix2pix.precision import default_device
from wsi_stain.pix2pix.step import Pix2Pix
from wsi_stain.stain.template import Template
from wsi_stain.store import TileStore
from wsi_stain.training.data import TrainingData, stain_of
from wsi_stain.training.loop import recipe

Pair = tuple[Tensor, Tensor]


def pairs(data: TrainingData, steps: int) -> Iterator[Pair]:
    """So many pairs as training has them."""
    batches = itertools.chain.from_iterable(data.batches(epoch) for epoch in itertools.count(1))
    for batch in itertools.islice(batches, steps):
        yield data.pair(batch)


def main() -> None:
    """Warm up, take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("slide_id")
    parser.add_argument("--config", default="small")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", type=int, help="most tiles held in memory; 0 reads the store for every image")
    asked = parser.parse_args()
    config = load_config(asked.config, {}).training
    if asked.cache is not None:
        config = config.model_copy(update={"cache_tiles": asked.cache})
    where, slides = torch.device(default_device()), [TileStore(asked.store)[asked.slide_id]]
    template = Template(kind=config.template, reference=stain_of(slides[0]))
    data = TrainingData(config, slides, where, template, config.shrink_at(slides[0].mpp.mean))
    pix2pix = Pix2Pix(config.generator, recipe(config, where))
    (ready,) = pairs(data, 1)

    def train_variant(source: Iterator[Pair]) -> None:
        for x_BCHW, y_BCHW in source:
            pix2pix.step(x_BCHW, y_BCHW).read()  # so that a GPU has done it

    ways = {
        "tensors at hand": lambda: train_variant(itertools.repeat(ready, asked.steps)),
        "from the store": lambda: train_variant(pairs(data, asked.steps)),
        "data alone": lambda: deque(pairs(data, asked.steps), maxlen=0),
    }
    medians(ways, [], 1)  # not counted
    taken = medians(ways, [], asked.rounds)
    print(f"{asked.config} on {where}, {torch.get_num_threads()} threads, {asked.steps} steps of {config.batch} images")
    base = taken["tensors at hand"]
    for name, found in taken.items():
        print(f"{name:16} {asked.steps * config.batch / found:8.0f} images/s   {base / found:6.1%} of the speed")


if __name__ == "__main__":
    main()
