"""Reinhard, Macenko and Vahadane on slides held in memory: style comes across, glass and cut tiles are handled."""

from __future__ import annotations

import numpy as np
import pytest

from tests.stain.test_statistics import WHITE, he_pixels
from wsi_stain.core.errors import NoTissueError
from wsi_stain.core.geometry import TILE, Mpp, Region, Size
from wsi_stain.metrics.colour_difference import ciede2000
from wsi_stain.normalizers.classical import (
    MacenkoNormalizer,
    ReinhardNormalizer,
    VahadaneNormalizer,
    lab_moments,
    learn_pair,
    sparse_stains,
)
from wsi_stain.stain.statistics import slide_statistics
from wsi_stain.stain.vectors import RUIFROK, angle_deg

OTHER_WHITE = (250.0, 228.0, 233.0)
OTHER_VECTORS = ((0.55, 0.74, 0.39), (0.12, 0.90, 0.42))
WIDTH, HEIGHT = 700, 300


class PixelSlide:
    """Slide in memory, all of it tissue: what normalizers need of a `TiledSlide`."""

    mpp = Mpp(0.25, 0.25)

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.size = Size(pixels.shape[1], pixels.shape[0])
        shape = -(-pixels.shape[0] // TILE), -(-pixels.shape[1] // TILE)
        self.kept = np.ones(shape, bool)
        self.exempt, self.stain = np.zeros((1, 1), np.uint8), None
        self.tissue = np.ones(shape, np.float32)

    def read(self, region: Region) -> np.ndarray:
        found = np.full((region.height, region.width, 3), 255, np.uint8)
        part = self.pixels[region.y : region.y + region.height, region.x : region.x + region.width]
        found[: part.shape[0], : part.shape[1]] = part
        return found


def image(**stain: object) -> np.ndarray:
    return he_pixels(0.25, count=WIDTH * HEIGHT, **stain).reshape(HEIGHT, WIDTH, 3)


@pytest.fixture(scope="module")
def target() -> np.ndarray:
    return image()


@pytest.fixture(scope="module")
def source() -> np.ndarray:
    """The same tissue, stained and scanned otherwise."""
    return image(vectors=OTHER_VECTORS, gains=(0.7, 1.3), white=OTHER_WHITE)


@pytest.mark.parametrize("method", ["Reinhard", "Macenko", "Vahadane"])
def test_the_source_comes_much_closer_to_the_truth(method: str, source: np.ndarray, target: np.ndarray) -> None:
    if method == "Reinhard":
        normalizer = ReinhardNormalizer(*lab_moments(target, WHITE))
    elif method == "Vahadane":
        normalizer = VahadaneNormalizer(*sparse_stains(target.reshape(-1, 3), WHITE), WHITE)
    else:
        normalizer = MacenkoNormalizer(slide_statistics(target.reshape(-1, 3)[::4], WHITE, "glass"))
    slide = PixelSlide(source)
    statistics = slide_statistics(source.reshape(-1, 3)[::4], OTHER_WHITE, "glass")
    artifact = normalizer.prepare(slide, statistics)
    result = normalizer.apply(source, slide.kept, artifact)
    assert result.shape == source.shape and result.dtype == np.uint8
    assert ciede2000(result, target) < 0.6 * ciede2000(source, target)


def test_the_reference_itself_hardly_changes(target: np.ndarray) -> None:
    statistics = slide_statistics(target.reshape(-1, 3)[::4], WHITE, "glass")
    slide = PixelSlide(target)
    for normalizer, most in (
        (ReinhardNormalizer(*lab_moments(target, WHITE)), 1.0),
        (MacenkoNormalizer(statistics), 2.0),
        (VahadaneNormalizer(*sparse_stains(target.reshape(-1, 3), WHITE), WHITE), 2.0),
    ):
        result = normalizer.apply(target, slide.kept, normalizer.prepare(slide, statistics))
        assert ciede2000(result, target) < most


@pytest.mark.parametrize("method", ["Reinhard", "Macenko", "Vahadane"])
def test_tiles_that_are_not_needed_are_white(method: str, source: np.ndarray) -> None:
    statistics = slide_statistics(source.reshape(-1, 3)[::4], OTHER_WHITE, "glass")
    if method == "Reinhard":
        normalizer = ReinhardNormalizer(*lab_moments(source, OTHER_WHITE), white=(250, 228, 233))
    elif method == "Vahadane":
        normalizer = VahadaneNormalizer(*sparse_stains(source.reshape(-1, 3), OTHER_WHITE), OTHER_WHITE)
    else:
        normalizer = MacenkoNormalizer(statistics)
    slide = PixelSlide(source)
    needed = np.zeros((2, 3), bool)
    needed[1, 2] = True
    result = normalizer.apply(source, needed, normalizer.prepare(slide, statistics))
    elsewhere = np.ones((HEIGHT, WIDTH), bool)
    elsewhere[256:, 512:] = False
    assert (result[elsewhere] == (250, 228, 233)).all()
    assert result[~elsewhere].std() > 5


def test_glass_alone_has_no_moments() -> None:
    with pytest.raises(NoTissueError):
        lab_moments(np.full((5, 7, 3), 240, np.uint8), WHITE)


@pytest.mark.parametrize("ink", [(20, 120, 60), (40, 70, 200), (25, 25, 25)], ids=["green", "blue", "black"])
def test_ink_is_not_measured(ink: tuple[int, int, int], target: np.ndarray) -> None:
    marked = target.copy()
    marked[::8] = ink
    rest = np.delete(target, np.s_[::8], axis=0)
    np.testing.assert_allclose(lab_moments(marked, WHITE), lab_moments(rest, WHITE))
    (hematoxylin, eosin), _ = sparse_stains(marked.reshape(-1, 3), WHITE)
    clean, _ = sparse_stains(target.reshape(-1, 3), WHITE)
    assert max(angle_deg(hematoxylin, clean[0]), angle_deg(eosin, clean[1])) < 2


def test_the_dictionary_is_that_of_scikit_learn(target: np.ndarray) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    od = -np.log((target.reshape(-1, 3)[::97] + 1) / 241.0)
    samples, start = np.maximum(od[od.mean(axis=1) > 0.15], 0), np.asarray(RUIFROK)
    learner = decomposition.DictionaryLearning(
        2,
        alpha=0.1,
        fit_algorithm="cd",
        transform_algorithm="lasso_cd",
        positive_code=True,
        positive_dict=True,
        max_iter=100,
        dict_init=start,
        code_init=samples @ np.linalg.pinv(start),
        random_state=0,
    )
    assert len(samples) > 300
    np.testing.assert_allclose(learn_pair(samples, start, 0.1), learner.fit(samples).components_, atol=1e-3)
