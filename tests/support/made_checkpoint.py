"""Checkpoints that never trained, for tests of everything around the generator."""

from __future__ import annotations

from pathlib import Path

import torch

from wsi_stain.pix2pix.checkpoint import Checkpoint, save
from wsi_stain.pix2pix.config import GeneratorConfig, Shrink
from wsi_stain.pix2pix.contract import Contract
from wsi_stain.pix2pix.generator import Generator
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.stain.template import Template

WHITE = (245, 243, 246)
"""Its reference's white, so the glass of what it makes."""

STATISTICS = StainStatistics(
    white=(240.0, 238.0, 241.0),
    white_origin="glass",
    vectors=((0.65, 0.70, 0.29), (0.20, 0.90, 0.38)),
    h_nuclei=1.2,
    h_stroma=0.3,
    e_nuclei=0.4,
    e_stroma=0.6,
    lum_nuclei=1.1,
    lum_stroma=0.5,
    dark_ratio=1.3,
    pixels=10_000,
)


def write_untrained(path: Path, mpp: float = 0.5, gain: float = 1) -> Path:
    """Write a checkpoint for a resolution, um/px, whose weights are as they were drawn.

    Args:
        path: Where to.
        mpp: The resolution.
        gain: By how much the weights are larger: as drawn the output is nearly one gray, with 12 it is of many colours.
    """
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(downs=5, ngf=4)).eval()
    for weights in generator.parameters():
        if weights.ndim == 4:
            weights.data *= gain
    reference = STATISTICS.model_copy(update={"white": tuple(map(float, WHITE))})
    template = Template(kind="gray", reference=reference)
    contract = Contract(
        generator=generator.config, template=template, mpp=mpp, training_fingerprint="0" * 64, version="0"
    )
    save(path, generator, contract)
    return path


def lively(path: Path, spread: float = 0.12, shrink: Shrink = 1, stain_passes: int = 0, **config: object) -> Checkpoint:
    """Write a checkpoint whose output uses its whole range, with running statistics as after some training."""
    torch.manual_seed(5)
    generator = Generator(GeneratorConfig.model_validate({"downs": 5, "ngf": 6, **config}))
    side = max(128, 2**generator.config.downs)
    with torch.no_grad():
        for parameter in generator.parameters():
            if parameter.ndim == 4:
                parameter.mul_(spread / parameter.std())
        for _batch in range(3):
            generator.train()(torch.rand(4, generator.config.in_channels, side, side) * 2 - 1)
    reference = STATISTICS.model_copy(update={"white": tuple(map(float, WHITE))})
    template = Template(kind="he" if generator.config.in_channels == 2 else "gray", reference=reference)
    contract = Contract(
        generator=generator.config,
        template=template,
        mpp=0.5,
        shrink=shrink,
        stain_passes=stain_passes,
        training_fingerprint="0" * 64,
        version="0",
    )
    save(path, generator.eval(), contract)
    return Checkpoint.load(path)
