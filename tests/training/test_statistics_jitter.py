"""Jittered statistics: repeatable, within their ranges, possible; and a training without jitter is what it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.made_store import WHITE, paint_tissue, store_slide
from tests.training.test_loop import tiny
from wsi_stain.core.geometry import Size
from wsi_stain.stain.statistics import StainStatistics, slide_statistics
from wsi_stain.stain.template import Template
from wsi_stain.stain.vectors import LUMINANCE, angle_deg
from wsi_stain.store import StoredSlide
from wsi_stain.training.data import TrainingData
from wsi_stain.training.samples import Batch
from wsi_stain.training.simulated_labs import draw_simulated_labs, jitter_statistics, recompose

POOL = paint_tissue(Size(640, 512)).reshape(64, -1, 3)
OWN = slide_statistics(POOL.reshape(-1, 3), WHITE, "glass")


def jitter(seed: int, strength: float = 1.0) -> StainStatistics:
    return jitter_statistics(OWN, strength, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> StoredSlide:
    return store_slide(tmp_path_factory.mktemp("jitter"), "reference", paint_tissue(Size(1900, 700)))


def first_batch(slide: StoredSlide, jitter: float, kind: str = "he") -> tuple[Batch, torch.Tensor]:
    assert slide.record.stain is not None
    channels = {"gray": 1, "he": 2}[kind]
    config = tiny(template=kind, generator={"downs": 3, "ngf": 4, "in_channels": channels}, statistics_jitter=jitter)
    template = Template.model_validate({"kind": kind, "reference": slide.record.stain})
    data = TrainingData(config, [slide], torch.device("cpu"), template)
    batch = next(data.batches(1))
    return batch, data.pair(batch)[0]


def test_statistics_repeat_by_seed_and_no_strength_changes_nothing() -> None:
    assert jitter(3) == jitter(3) != jitter(4)
    found = jitter(3, 0.0)
    np.testing.assert_allclose(found.vectors, OWN.vectors)
    assert found.model_copy(update={"vectors": OWN.vectors}) == OWN


def test_statistics_stay_within_their_ranges_and_possible() -> None:
    for seed in range(200):
        found = jitter(seed)
        assert StainStatistics.model_validate(found.model_dump()) == found
        h, e = found.h_nuclei / OWN.h_nuclei, found.e_stroma / OWN.e_stroma
        assert found.h_stroma / OWN.h_stroma == pytest.approx(h)
        assert found.e_nuclei / OWN.e_nuclei == pytest.approx(e)
        assert max(abs(np.log([h, e]))) <= 0.67
        assert abs(np.log(h / e)) <= 0.9
        assert np.abs(np.subtract(found.white, OWN.white)).max() <= 4
        assert all(angle_deg(a, b) < 4.3 for a, b in zip(found.vectors, OWN.vectors, strict=True))


def test_levels_spread_as_far_as_they_should() -> None:
    ratios = np.log([jitter(seed).h_nuclei / OWN.h_nuclei for seed in range(2000)])
    assert np.std(ratios) == pytest.approx(np.hypot(0.45, 0.22) / np.sqrt(3), rel=0.05)


def test_less_than_nothing_is_as_far_off_the_other_way() -> None:
    more, less = (jitter_statistics(OWN, strength, np.random.default_rng(7)) for strength in (1.0, -1.0))
    assert more.h_nuclei * less.h_nuclei == pytest.approx(OWN.h_nuclei**2)
    assert np.add(more.white, less.white) == pytest.approx(2 * np.asarray(OWN.white))


def test_luminance_follows_from_the_two_stains() -> None:
    """Where luminance is the sum of the two stains' own, it stays that."""
    light = np.asarray(OWN.vectors) @ np.asarray(LUMINANCE)
    sums = {f"lum_{s}": float(light @ [getattr(OWN, f"{stain}_{s}") for stain in "he"]) for s in ("nuclei", "stroma")}
    found = jitter_statistics(OWN.model_copy(update=sums), 1.0, np.random.default_rng(5))
    for stratum in ("nuclei", "stroma"):
        expected = light @ [getattr(found, f"{stain}_{stratum}") for stain in "he"]
        assert getattr(found, f"lum_{stratum}") == pytest.approx(expected)


def test_vectors_that_would_come_too_close_stay() -> None:
    close = OWN.model_copy(update={"vectors": ((0.6, 0.7, 0.39), (0.45, 0.8, 0.39))})
    apart = [angle_deg(*jitter_statistics(close, 2.0, np.random.default_rng(seed)).vectors) for seed in range(100)]
    assert min(apart) >= 8
    assert 5 < apart.count(angle_deg(*close.vectors)) < 60


def test_another_composition_has_fewer_tiles_and_more_of_some() -> None:
    gray = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None], (64, 100, 3))
    drawn = [recompose(gray, 1.0, np.random.default_rng(seed)) for seed in range(200)]
    counts = [len(pixels) // 100 for pixels in drawn]
    assert min(counts) < 12 and max(counts) > 56
    assert np.std([pixels.mean() for pixels in drawn]) > 5  # 2 to 6 were all tiles alike
    assert (recompose(gray, 1.0, np.random.default_rng(1)) == drawn[1]).all()
    assert recompose(gray, 0.0, np.random.default_rng(1)).shape == (6400, 3)


def test_looks_are_measured_on_other_tissue_only_where_asked() -> None:
    plain, same, other = (
        draw_simulated_labs(POOL, OWN, 4, 1.0, np.random.default_rng(1), None, j) for j in (0.0, 0.0, 1.0)
    )
    assert plain == same
    assert [look.statistics for look in plain] != [look.statistics for look in other]


@pytest.mark.parametrize("kind", ["gray", "he"])
def test_training_data_jitter_each_image_and_repeat(slide: StoredSlide, kind: str) -> None:
    """Pixels and laboratories are those of a training without; templates differ, and repeat."""
    batch, plain = first_batch(slide, 0.0, kind)
    same, off = first_batch(slide, 1.0, kind)
    assert same.samples == batch.samples
    assert torch.equal(same.pixels, batch.pixels)
    assert torch.equal(first_batch(slide, 1.0, kind)[1], off)
    assert ((off - plain).abs().mean(dim=(1, 2, 3)) > 0.01).sum() >= 3
    assert off.min() >= -1 and off.max() <= 1


def test_held_out_tiles_are_scored_with_statistics_that_are_off(slide: StoredSlide) -> None:
    assert slide.record.stain is not None
    template = Template(kind="gray", reference=slide.record.stain)
    exact, off = (
        TrainingData(tiny(statistics_jitter=jitter), [slide], torch.device("cpu"), template).held_out
        for jitter in (0.0, 1.0)
    )
    assert [tile.own for tile in exact] == [tile.own for tile in off]
    assert all(a.foreign.statistics != b.foreign.statistics for a, b in zip(exact, off, strict=True))
    for tile in exact:  # what Reinhard's method is measured on: as far off as the generator's input
        np.testing.assert_array_equal(tile.measured, tile.pool.reshape(-1, 3))
    assert all(len(tile.measured) != len(tile.pool.reshape(-1, 3)) for tile in off)
