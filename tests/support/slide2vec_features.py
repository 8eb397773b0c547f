"""Extract a slide's features with slide2vec, in the environment of slide2vec: no import of wsi-stain or its tests.

python slide2vec_features.py SLIDE SIDE MPP OUT.npz
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from hs2p import TilingConfig
from slide2vec import ExecutionOptions, Model, PreprocessingConfig, TorchTileEncoder, register_encoder
from torch import nn
from torchvision.models import squeezenet1_1


class Averaged(nn.Module):
    """A small network with weights as they were drawn: (n, 3, h, w) in 0 to 1 to (n, 512)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = squeezenet1_1(weights=None).features

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Average the network's maps."""
        return self.network(batch).mean(dim=(2, 3))


@register_encoder("drawn", encode_dim=512, input_size=192, supports_variable_input_size=True, supported_spacing_um=None)
class Drawn(TorchTileEncoder):
    """The network as slide2vec takes networks."""

    def __init__(self, *, output_variant: str | None = None) -> None:
        super().__init__(
            Averaged(), encode_dim=512, input_size=192, mean=(0, 0, 0), std=(1, 1, 1), output_variant=output_variant
        )


def main(slide: str, side: str, mpp: str, out: str) -> None:
    """Write `features` (n, 512) and `corners` (n, 2), x and y of each tile at level 0."""
    tiling = TilingConfig(
        requested_spacing_um=float(mpp), requested_tile_size_px=int(side), tolerance=0.05, overlap=0.0
    )
    made = Model.from_preset("drawn", device="cpu").embed_slide(
        slide,
        preprocessing=PreprocessingConfig(tiling=tiling),
        execution=ExecutionOptions(num_workers_per_gpu=0, num_preprocessing_workers=1, precision="fp32"),
    )
    corners = np.stack([np.asarray(made.x), np.asarray(made.y)], axis=1)
    np.savez(out, features=np.asarray(made.tile_embeddings), corners=corners)


if __name__ == "__main__":
    main(*sys.argv[1:])
