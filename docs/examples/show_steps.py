"""Show what becomes of a stored slide: a patch, its template, generated, through the colour table.

python show_steps.py tiles.zarr SLIDE_ID training/checkpoint.safetensors steps.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import wsi_stain
from wsi_stain.normalize.region import RegionNormalizer
from wsi_stain.pix2pix.checkpoint import read_contract
from wsi_stain.stain.template import apply_template


def main(store: str, slide_id: str, checkpoint: str, picture: str) -> None:
    """Draw the steps side by side, at the slide's tile with most tissue."""
    slide = wsi_stain.TileStore(store)[slide_id]
    tile = max(slide.tile_indices(), key=lambda index: slide.tissue[index])
    patch = wsi_stain.Region(tile.col * 256, tile.row * 256, 256, 256)
    source = slide.read(patch)

    template = apply_template(source, slide.require_stain(), read_contract(Path(checkpoint)).template)
    shown = np.zeros_like(source)
    shown[..., : template.shape[-1]] = (template + 1) * 127.5  # hematoxylin in red, eosin in green; or gray in red

    steps = [source, shown]
    for mode in ("generator", "lut"):
        normalizer = RegionNormalizer(slide, checkpoint, mode)
        steps.append(normalizer.read(patch))
    Image.fromarray(np.concatenate(steps, axis=1)).save(picture)
    print(f"{picture}: source, template, generator, lut")


if __name__ == "__main__":
    main(*sys.argv[1:])
