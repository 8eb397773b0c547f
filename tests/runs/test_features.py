"""A feature extractor in front of a slide that is normalized while it is read, and in front of the run's pyramid."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import openslide
import torch
from rich.console import Console
from torchvision.models import squeezenet1_1

from pipelines import run
from pipelines.shared.config import RunConfig
from tests.support.made_checkpoint import write_untrained
from tests.support.tiled_slides import SMALL, paint, write
from wsi_stain import NormalizedSlide

SIDE = 192
PLACES = [(x, y) for y in (150, 360) for x in (600, 800, 1000)]


def extract_features(tiles: np.ndarray) -> torch.Tensor:
    """Features, (n, 512), of tiles, (n, h, w, 3), by a small network with weights as they were drawn."""
    torch.manual_seed(0)
    network = squeezenet1_1(weights=None).features.eval()
    with torch.inference_mode():
        batch = torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255
        return network(batch).mean(dim=(2, 3))


def test_features_through_the_slide_are_those_of_the_pyramid(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", paint(SMALL)).path
    checkpoint = write_untrained(tmp_path / "c.safetensors", mpp=0.5, gain=12)
    config = RunConfig.model_validate(
        {
            "normalize": {"mode": "lut", "stride_px": 512, "lut_tiles": 10, "lut_size": 9, "precision": "float32"},
            "executor": {"workers": 0},
            "stream": True,
            "jpeg": {"quality": 95},
        }
    )
    said = io.StringIO()
    assert run.run(run.Request([source], [], checkpoint, tmp_path / "out", config), Console(file=said)) == 0, said

    with openslide.OpenSlide(tmp_path / "out" / "slides" / "a.ome.tif") as pyramid, openslide.OpenSlide(source) as raw:
        written, before = (
            np.stack([np.asarray(each.read_region(place, 0, (SIDE, SIDE)).convert("RGB")) for place in PLACES])
            for each in (pyramid, raw)
        )
    with NormalizedSlide(source, checkpoint, config.normalize) as slide:
        while_read = slide.read_regions(PLACES, (SIDE, SIDE))
    error = np.abs(while_read.astype(float) - written).mean()
    assert error < 3, "JPEG's"
    features = {name: extract_features(each) for name, each in
                {"read": while_read, "written": written, "before": before}.items()}  # fmt: skip
    by_jpeg = (features["read"] - features["written"]).norm(dim=1) / features["written"].norm(dim=1)
    by_stain = (features["before"] - features["written"]).norm(dim=1) / features["written"].norm(dim=1)
    assert by_jpeg.max() < 0.05
    assert by_jpeg.max() < 0.2 * by_stain.min(), "what JPEG changes is little beside what normalization does"
