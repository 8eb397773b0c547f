"""Simulated laboratories: what they change, what they leave alone, and that their stain is still measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.stain.test_statistics import HE_SLIDES, REFERENCE, WHITE, he_pixels, real_sample
from wsi_stain.laboratories.perturbation import Perturbation, draw_perturbation, perturb, perturbed_white
from wsi_stain.stain.statistics import StainStatistics, slide_statistics
from wsi_stain.stain.template import Template, apply_template

STRONG = Perturbation(
    h_gain=0.6, e_gain=1.5, h_tilt=(4, -5), e_tilt=(-6, 3), gamma=(1.1, 0.9, 1.0), tone=(0.2, -0.2), balance=(1, 0.9, 1)
)


def test_nothing_is_changed_by_default() -> None:
    pixels = he_pixels(0.3, count=999)
    shown = perturb(pixels, Perturbation(), REFERENCE)
    assert shown.dtype == np.float32
    np.testing.assert_allclose(shown, np.minimum(pixels, WHITE), atol=1e-3)


def test_numpy_and_torch_agree_on_any_shape() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 3, 3), dtype=np.uint8)
    shown = perturb(pixels, STRONG, REFERENCE)
    assert shown.shape == pixels.shape
    assert shown.min() >= 0 and shown.max() <= 255
    as_torch = perturb(torch.from_numpy(pixels), STRONG, REFERENCE)
    assert as_torch.dtype == torch.float32
    np.testing.assert_allclose(as_torch.numpy(), shown, atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_glass_stays_glass_with_the_new_white(seed: int) -> None:
    drawn = draw_perturbation(np.random.default_rng(seed))
    shown = perturb(np.array([WHITE, (255, 255, 255)], np.float32), drawn, REFERENCE)
    np.testing.assert_allclose(shown, [perturbed_white(WHITE, drawn)] * 2, atol=1e-3)


def test_gains_act_on_their_own_stain() -> None:
    amounts = np.array([[1.0, 0.0], [0.0, 1.0], [0.7, 0.4]])
    unit = np.asarray(REFERENCE.vectors) / np.linalg.norm(REFERENCE.vectors, axis=1, keepdims=True)
    reference = REFERENCE.model_copy(update={"vectors": tuple(map(tuple, unit.tolist()))})
    white = np.asarray(WHITE) + 1
    shown = perturb((white * np.exp(-amounts @ unit) - 1).astype(np.float32), Perturbation(h_gain=0.5), reference)
    found = -np.log((shown + 1) / white) @ np.linalg.pinv(unit)
    np.testing.assert_allclose(found, amounts * [0.5, 1.0], atol=1e-3)


def test_order_of_brightness_survives_the_sensor() -> None:
    """Gamma and tone curves are monotone even at the ends of their ranges."""
    grays = np.repeat(np.arange(0, 237, dtype=np.float32)[:, None], 3, axis=1)
    for tone in ((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0), (0.2, -0.2)):
        shown = perturb(grays, Perturbation(tone=tone, gamma=(1.3, 0.8, 1.0)), REFERENCE)
        assert (np.diff(shown, axis=0) >= -1e-3).all(), tone


def test_draws_repeat_and_scale() -> None:
    assert draw_perturbation(np.random.default_rng(5)) == draw_perturbation(np.random.default_rng(5))
    assert draw_perturbation(np.random.default_rng(5)) != draw_perturbation(np.random.default_rng(6))
    assert draw_perturbation(np.random.default_rng(5), strength=0.0) == Perturbation()


def mean_difference(pixels: np.ndarray, own: StainStatistics, draws: int) -> dict[str, float]:
    """Mean difference of the template from the unperturbed one, with statistics of the perturbed slide; and without."""
    rng = np.random.default_rng(2)
    differences: dict[str, list[float]] = {"gray": [], "he": [], "gray as before": [], "he as before": []}
    for _ in range(draws):
        drawn = draw_perturbation(rng)
        shown = np.rint(perturb(pixels, drawn, own)).astype(np.uint8)
        theirs = slide_statistics(shown, perturbed_white(own.white, drawn), "glass")
        for kind in ("gray", "he"):
            template = Template(kind=kind, reference=own)
            wanted = apply_template(pixels, own, template)
            unaware = own.model_copy(update={"white": theirs.white})
            differences[kind].append(float(np.abs(apply_template(shown, theirs, template) - wanted).mean()))
            differences[f"{kind} as before"].append(
                float(np.abs(apply_template(shown, unaware, template) - wanted).mean())
            )
    return {name: float(np.mean(values)) for name, values in differences.items()}


@pytest.mark.parametrize("source", ["synthetic", "AT2"])
def test_every_drawn_slide_is_measured_and_its_template_restored(source: str) -> None:
    """None of 50 draws is refused, and the slide's own statistics bring the template most of the way back."""
    if source == "AT2":
        tiles, white, origin = real_sample(HE_SLIDES["AT2"])
        pixels = tiles.reshape(-1, 3)[::9]
    else:
        pixels, white, origin = he_pixels(0.25), WHITE, "glass"
    found = mean_difference(pixels, slide_statistics(pixels, white, origin), draws=50)
    assert found["gray"] < 0.45 * found["gray as before"], found
    assert found["he"] < 0.35 * found["he as before"], found
