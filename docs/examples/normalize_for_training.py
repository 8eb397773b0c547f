"""Train on tiles in the reference's stain: a DataLoader whose workers normalize what they read.

python normalize_for_training.py tiles.zarr training/checkpoint.safetensors
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

import wsi_stain


class Tiles(Dataset[dict[str, Any]]):
    """All tiles of a store that are at least half tissue."""

    def __init__(self, store: wsi_stain.TileStore, transform: v2.Transform) -> None:
        self.slides = {slide_id: store[slide_id] for slide_id in store}
        self.places = [(slide_id, tile) for slide_id, slide in self.slides.items() for tile in slide.tile_indices(0.5)]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> dict[str, Any]:
        slide_id, tile = self.places[number]
        pixels = torch.from_numpy(self.slides[slide_id].read_tile(tile)).permute(2, 0, 1)
        sample: dict[str, Any] = self.transform({"image": pixels, "slide": slide_id})
        return sample


def main(store_path: str, checkpoint: str) -> None:
    """Go through the store once and say what a network would see."""
    store = wsi_stain.TileStore(store_path)
    transform = v2.Compose(
        [
            wsi_stain.StainNormalize(checkpoint, store),  # fits a colour table for each slide, seconds each
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    loader = DataLoader(Tiles(store, transform), batch_size=8, num_workers=1, multiprocessing_context="spawn")
    for batch in loader:
        images_BCHW = batch["image"]
        red, green, blue = images_BCHW.mean(dim=(0, 2, 3)).tolist()
        print(f"{len(images_BCHW)} tiles of {sorted(set(batch['slide']))}: mean {red:.2f} {green:.2f} {blue:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
