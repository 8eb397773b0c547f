"""A slide that is normalized while it is read, in threads, in forked and in spawned processes."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from tests.support.made_checkpoint import write_untrained
from tests.support.tiled_slides import SMALL, paint, write
from wsi_stain import NormalizedSlide
from wsi_stain.normalizers.config import NormalizeConfig

CONFIG = NormalizeConfig.model_validate(
    {"mode": "lut", "stride_px": 512, "lut_tiles": 10, "lut_size": 9, "precision": "float32"}
)
LOCATIONS = [(x, y) for y in (700, 130, 400) for x in (300, 1100, 650, -50)]
SIDE = 160


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NormalizedSlide]:
    root = tmp_path_factory.mktemp("workers")
    write(root / "a.tif", paint(SMALL))
    with NormalizedSlide(
        root / "a.tif", write_untrained(root / "c.safetensors", mpp=0.5, gain=12), CONFIG
    ) as normalized:
        yield normalized


class Tiles(Dataset[torch.Tensor]):
    """Regions of a slide, as an extraction tool asks for them."""

    def __init__(self, slide: NormalizedSlide) -> None:
        self.slide = slide

    def __len__(self) -> int:
        return len(LOCATIONS)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(read(self.slide, LOCATIONS[index]))


def read(slide: NormalizedSlide, location: tuple[int, int]) -> np.ndarray:
    return np.array(slide.read_region(location, 0, (SIDE, SIDE)).convert("RGB"))


@pytest.fixture(scope="module")
def expected(slide: NormalizedSlide) -> np.ndarray:
    return np.stack([read(slide, location) for location in LOCATIONS])


def test_many_regions_are_read_in_the_order_asked_for(slide: NormalizedSlide, expected: np.ndarray) -> None:
    inside = [number for number, (x, _) in enumerate(LOCATIONS) if x >= 0]
    got = slide.read_regions([LOCATIONS[number] for number in inside], (SIDE, SIDE))
    assert np.array_equal(got, expected[inside])
    assert slide.read_regions([], (8, 4)).shape == (0, 4, 8, 3)


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_of_a_data_loader_read_the_same(slide: NormalizedSlide, expected: np.ndarray, start: str) -> None:
    """While threads of the parent read, too, so that a lock of theirs is held when workers are forked."""
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {start} here")
    fresh = pickle.loads(pickle.dumps(slide))
    loader = DataLoader(Tiles(fresh), batch_size=4, num_workers=2, multiprocessing_context=start, timeout=120)
    with ThreadPoolExecutor(2) as threads:
        busy = [threads.submit(fresh.read_region, (0, 0), 1, (400, 300)) for _ in range(20)]
        got = torch.cat(list(loader)).numpy()
        assert len({each.result().tobytes() for each in busy}) == 1
    assert np.array_equal(got, expected)
    fresh.close()


def test_it_may_be_pickled_and_measures_nothing_again(slide: NormalizedSlide, expected: np.ndarray) -> None:
    with pickle.loads(pickle.dumps(slide)) as copy:
        assert np.array_equal(read(copy, LOCATIONS[0]), expected[0])
        assert copy.properties == slide.properties
        assert copy._normalizer.artifact.keys() == slide._normalizer.artifact.keys()
    assert np.array_equal(read(slide, LOCATIONS[1]), expected[1]), "the first stays open"


def test_a_closed_slide_opens_again_in_another_process(slide: NormalizedSlide, expected: np.ndarray) -> None:
    """What a fork has of its parent is not closed by it."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("no fork here")
    child = multiprocessing.get_context("fork").Process(target=slide.close)
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert np.array_equal(read(slide, LOCATIONS[2]), expected[2])


def test_a_file_that_is_gone_is_said_to_be(slide: NormalizedSlide, tmp_path: Path) -> None:
    state = pickle.dumps(slide).replace(b"c.safetensors", b"d.safetensors")
    with pytest.raises(Exception, match=r"d\.safetensors"):
        pickle.loads(state)
