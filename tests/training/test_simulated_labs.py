"""Looks: what another laboratory would show, measured as a foreign slide is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.made_store import WHITE, paint_tissue
from wsi_stain.core.errors import StainError
from wsi_stain.core.geometry import Size
from wsi_stain.laboratories.perturbation import Perturbation
from wsi_stain.stain.statistics import StainStatistics, slide_statistics
from wsi_stain.stain.template import Template
from wsi_stain.training import simulated_labs
from wsi_stain.training.simulated_labs import LabBatch, SimulatedLab, draw_simulated_labs, own_lab, pixel_pool

PIXELS = paint_tissue(Size(500, 300))
POOL = PIXELS.reshape(-1, 3)
OWN = slide_statistics(POOL, WHITE, "glass")


def draw_labs(seed: int, count: int = 6) -> list[SimulatedLab]:
    return draw_simulated_labs(POOL, OWN, count, 1.0, np.random.default_rng(seed))


def test_own_look_changes_nothing() -> None:
    pixels = torch.from_numpy(PIXELS)
    assert torch.equal(own_lab(OWN).simulate(pixels), pixels)


def test_looks_differ_and_are_repeatable() -> None:
    assert len({look.statistics.model_dump_json() for look in draw_labs(1)}) == 6
    assert draw_labs(1) == draw_labs(1)
    assert draw_labs(1) != draw_labs(2)


def test_shown_pixels_are_what_a_scanner_stores() -> None:
    shown = draw_labs(3)[0].simulate(torch.from_numpy(PIXELS))
    assert shown.dtype == torch.uint8
    assert shown.shape == PIXELS.shape
    assert (shown.int() - torch.from_numpy(PIXELS).int()).abs().float().mean() > 2


@pytest.mark.parametrize(("kind", "channels"), [("gray", 1), ("he", 2)])
def test_statistics_of_the_look_bring_its_template_near_the_slides_own(kind: str, channels: int) -> None:
    template = Template.model_validate({"kind": kind, "reference": OWN})
    pixels = torch.from_numpy(PIXELS)
    own = own_lab(OWN).template(pixels, template)
    assert own.shape == (300, 500, channels)
    for look in draw_labs(4):
        measured = (look.template(pixels, template) - own).abs().mean()
        unmeasured = (SimulatedLab(look.perturbation, OWN, OWN).template(pixels, template) - own).abs().mean()
        assert measured < unmeasured


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["gray", "he"])
def test_a_gpu_makes_the_same_templates(kind: str) -> None:
    template = Template.model_validate({"kind": kind, "reference": OWN})
    batch = LabBatch.of([*draw_labs(5, 3), own_lab(OWN)], template)
    pixels = torch.from_numpy(np.stack([PIXELS[:128, :128]] * 4))
    unlike = batch.pin().templates(pixels.pin_memory().to("cuda", non_blocking=True)).cpu() - batch.templates(pixels)
    assert unlike.abs().mean() < 1e-3  # a value that is rounded the other way is a grey level off


@pytest.mark.parametrize("kind", ["gray", "he"])
@pytest.mark.parametrize("changed", [[], [0, 3], [0, 1, 2, 3]], ids=["none", "some", "all"])
def test_a_batch_is_shown_as_each_of_its_images_would_be(kind: str, changed: list[int]) -> None:
    template = Template.model_validate({"kind": kind, "reference": OWN})
    labs = [lab if number in changed else own_lab(OWN) for number, lab in enumerate(draw_labs(5, 4))]
    pixels = torch.from_numpy(np.stack([PIXELS[top : top + 96, :128] for top in (0, 50, 100, 200)]))
    before = pixels.clone()
    expected = torch.stack([lab.template(image, template) for lab, image in zip(labs, pixels, strict=True)])
    assert torch.equal(LabBatch.of(labs, template).templates(pixels), expected)
    assert torch.equal(pixels, before)


def test_refused_laboratories_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def refuse(pool: np.ndarray, perturbation: Perturbation, own: StainStatistics, config: object) -> StainStatistics:
        calls.append(perturbation)
        if len(calls) % 2:
            raise StainError("not H&E")
        return own

    monkeypatch.setattr(simulated_labs, "_measure", refuse)
    assert len(draw_labs(5, 3)) == 3
    assert len(calls) == 6


def test_laboratories_that_are_all_refused_end() -> None:
    glass = np.full((5000, 3), 240, np.uint8)
    assert draw_simulated_labs(glass, OWN, 3, 1.0, np.random.default_rng(0)) == []


def test_pool_comes_from_many_tiles() -> None:
    tiles = [np.full((256, 256, 3), value, np.uint8) for value in range(100)]
    pool = pixel_pool(tiles, np.random.default_rng(0))
    assert pool.shape == (64, 781, 3)
    assert len(np.unique(pool)) == 64
