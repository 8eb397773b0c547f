"""Look at a tile store, and at what a checkpoint makes of its slides: a picture of some tiles before and after.

python look_at_a_store.py tiles.zarr training/checkpoint.safetensors before-after.png
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image

import wsi_stain

TILES = 6


def main(store_path: str, checkpoint: str, picture: str) -> None:
    """Print what is known of each slide; draw a row before and a row after for each."""
    rows = []
    store = wsi_stain.TileStore(store_path)
    for slide_id in store:
        slide = store[slide_id]
        print(slide_id, *(f"  {name}: {value}" for name, value in slide.facts().items() if value), sep="\n")
        richest = sorted(slide.tile_indices(), key=lambda tile: -slide.tissue[tile])[:TILES]
        transform = wsi_stain.StainNormalize(checkpoint, slide)
        before = slide.read_tiles(richest)
        rows.append(np.concatenate(list(before), axis=1))
        rows.append(np.concatenate([transform.normalize(pixels) for pixels in before], axis=1))
    width = max(row.shape[1] for row in rows)
    whole = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    Image.fromarray(np.concatenate(whole)).save(picture)
    print(f"{picture}: before and after, slide by slide")


if __name__ == "__main__":
    main(*sys.argv[1:])
