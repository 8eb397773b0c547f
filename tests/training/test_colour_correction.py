"""The colour correction: what tables lose by a generator that draws colours to their mean is undone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.support.made_store import paint_tissue, store_slide
from tests.training.test_loop import tiny
from wsi_stain.core.geometry import TILE, Size
from wsi_stain.metrics.colour_difference import ciede2000
from wsi_stain.pix2pix.checkpoint import Checkpoint
from wsi_stain.pix2pix.config import GeneratorConfig
from wsi_stain.pix2pix.contract import Contract
from wsi_stain.pix2pix.generator import Generator
from wsi_stain.stain.colour_table import apply_table
from wsi_stain.stain.statistics import StainStatistics, slide_statistics
from wsi_stain.stain.template import Template, apply_template
from wsi_stain.training.colour_correction import _fit_as_on_slides, fit_correction
from wsi_stain.training.data import TrainingData, stain_of
from wsi_stain.training.simulated_labs import SimulatedLab, draw_simulated_labs, own_lab

PIXELS = paint_tissue(Size(2 * TILE, TILE), seed=4)
STAIN = slide_statistics(PIXELS.reshape(-1, 3), (255.0, 255.0, 255.0), "glass")
TILES = [PIXELS[:, :TILE], PIXELS[:, TILE:]]
TEMPLATE = Template(kind="he", reference=STAIN)


class Flattening(Generator):
    """Beer-Lambert colours of the `he` template, half way to the mean: as of a generator that doubts its statistics."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        amounts = (x_BCHW + 1) * torch.tensor([STAIN.h_nuclei, STAIN.e_stroma])[:, None, None]
        light = torch.exp(-torch.einsum("bshw,sc->bchw", amounts, torch.tensor(STAIN.vectors)))
        return light + light.mean(dim=(2, 3), keepdim=True) - 1


GENERATOR = Flattening(GeneratorConfig(downs=3, ngf=4, in_channels=2)).eval()
_CONTRACT = Contract(generator=GENERATOR.config, template=TEMPLATE, mpp=0.5, training_fingerprint="", version="0")
CHECKPOINT = Checkpoint(_CONTRACT, GENERATOR, digest="")


def flatten(tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
    x_BCHW = own_lab(STAIN).template(torch.from_numpy(tile), TEMPLATE).permute(2, 0, 1)[None]
    light = (GENERATOR(x_BCHW)[0].permute(1, 2, 0).detach().numpy() + 1) * 127.5
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def test_undoes_what_tables_lose() -> None:
    labs = draw_simulated_labs(PIXELS.reshape(64, -1, 3), STAIN, 4, 1.0, np.random.default_rng(0))
    shown = [(lab, TILES) for lab in labs]
    correction = fit_correction(CHECKPOINT, shown, torch.autocast("cpu", enabled=False))
    assert correction.shape == (17, 17, 17, 3)
    for tile in TILES:
        flat, nuclei = flatten(tile), tile[..., 0] < 110
        corrected = apply_table(correction, flat)
        before, after = (np.abs(made[nuclei].astype(int) - tile[nuclei]).mean() for made in (flat, corrected))
        assert after < before / 4
        assert ciede2000(corrected, tile) < ciede2000(flat, tile)


class Doubting(Generator):
    """Beer-Lambert colours, their amounts half way to those that these very tiles have: it reads the tissue as well."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        usual = torch.from_numpy(np.stack(TILES)).float()
        usual = apply_template(usual, STAIN, TEMPLATE).mean(dim=(0, 1, 2)) + 1
        amounts = (x_BCHW + 1) * (usual / (x_BCHW + 1).mean(dim=(0, 2, 3))).sqrt()[:, None, None]
        amounts = amounts * torch.tensor([STAIN.h_nuclei, STAIN.e_stroma])[:, None, None]
        return 2 * torch.exp(-torch.einsum("bshw,sc->bchw", amounts, torch.tensor(STAIN.vectors))) - 1


def test_laboratories_statistics_are_refined_as_those_of_slides_are() -> None:
    generator = Doubting(GENERATOR.config).eval()
    off = STAIN.model_copy(update={"h_nuclei": 1.3 * STAIN.h_nuclei, "e_stroma": 0.8 * STAIN.e_stroma})
    seen = torch.from_numpy(np.stack(TILES))

    def table(stain: StainStatistics, passes: int) -> NDArray[np.float64]:
        contract = _CONTRACT.model_copy(update={"stain_passes": passes})
        lab = SimulatedLab(None, STAIN, stain)
        checkpoint = Checkpoint(contract, generator, digest="")
        return _fit_as_on_slides(checkpoint, lab, seen, torch.autocast("cpu", enabled=False))

    right = table(STAIN, 0)
    before, after = (ciede2000(*(apply_table(each, TILES[0]) for each in (right, table(off, n)))) for n in (0, 3))
    assert before > 1
    assert after < before / 3


def test_draws_the_same_laboratories_each_time(tmp_path: Path) -> None:
    slide = store_slide(tmp_path, "reference", paint_tissue(Size(1900, 700)))

    def levels(**changes: Any) -> list[float]:
        data = TrainingData(tiny(**changes), [slide], torch.device("cpu"), Template(reference=stain_of(slide)))
        return [lab.statistics.h_nuclei for lab, _ in data.draw_correction_set()]

    off = levels(correction_labs=4, statistics_jitter=1)
    assert off == levels(correction_labs=4, statistics_jitter=1)
    assert len(set(off)) == 4
    assert levels(augment=False) == levels(correction_labs=0) == []
