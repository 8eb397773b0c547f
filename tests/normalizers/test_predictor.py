"""Passes of the generator: of one shape, none where there is no tissue, computed again where a value is no number."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from tests.support.made_checkpoint import STATISTICS, WHITE, write_untrained
from tests.support.made_store import paint_tissue
from wsi_stain.core.arrays import RgbImage
from wsi_stain.core.errors import CheckpointError
from wsi_stain.core.geometry import Size
from wsi_stain.normalizers.generator import GeneratorNormalizer
from wsi_stain.normalizers.predictor import GeneratorPredictor, PendingBatch, Postprocess
from wsi_stain.pix2pix.checkpoint import Checkpoint
from wsi_stain.pix2pix.precision import Precision
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store.artifact import STATISTICS as STATISTICS_ENTRY
from wsi_stain.store.artifact import NormalizationCounts, pack_statistics

ARTIFACT = {STATISTICS_ENTRY: pack_statistics(STATISTICS)}
SIDE = 1280
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint.load(write_untrained(tmp_path_factory.mktemp("checkpoint") / "c.safetensors"))


@pytest.fixture(scope="module")
def source() -> RgbImage:
    """A block with its halo of 64 px."""
    return paint_tissue(Size(SIDE + 128, SIDE + 128), seed=6)


class Watched(GeneratorPredictor):
    """Remembers the shape of each pass."""

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu") -> None:
        super().__init__(checkpoint, device, "float32")
        self.shapes: list[tuple[int, ...]] = []

    def start(
        self, windows: Sequence[RgbImage], statistics: StainStatistics, crop: int, postprocess: Postprocess
    ) -> PendingBatch:
        self.shapes.append(np.stack(windows).shape)
        return super().start(windows, statistics, crop, postprocess)


def test_what_holds_no_tissue_never_reaches_the_generator(checkpoint: Checkpoint, source: RgbImage) -> None:
    predictor, needed = Watched(checkpoint), np.zeros((5, 5), bool)
    normalizer = GeneratorNormalizer(predictor, WHITE, stride_px=512)
    assert (normalizer.apply(source, needed, ARTIFACT) == WHITE).all()
    assert predictor.shapes == []
    needed[0, 0] = needed[1, 1] = needed[4, 2] = True
    normalizer.apply(source, needed, ARTIFACT)
    assert predictor.shapes == [(1, 640, 640, 3)] * 2, "two of nine cores hold all three tiles"


@pytest.mark.parametrize("device", DEVICES)
def test_batches_have_one_shape_and_give_one_picture(checkpoint: Checkpoint, source: RgbImage, device: str) -> None:
    predictor, needed = Watched(checkpoint, device), np.ones((5, 5), bool)
    one = GeneratorNormalizer(predictor, WHITE, stride_px=512).apply(source, needed, ARTIFACT)
    assert predictor.shapes == [(1, 640, 640, 3)] * 9
    for batch, passes in ((2, 5), (4, 3), (16, 1)):
        predictor.shapes.clear()
        many = GeneratorNormalizer(predictor, WHITE, stride_px=512, batch=batch).apply(source, needed, ARTIFACT)
        assert predictor.shapes == [(batch, 640, 640, 3)] * passes
        unlike = np.abs(many.astype(int) - one)
        assert unlike.max() <= 1 and (unlike > 0).mean() < 1e-3


@pytest.fixture
def overflowing(checkpoint: Checkpoint, precision: Precision) -> Checkpoint:
    """One weight is too large for 16 bits; nothing depends on its channel, so that in float32 nothing is wrong."""
    generator = copy.deepcopy(checkpoint.generator)
    with torch.no_grad():
        first, second = generator.down[0][0], generator.down[1][1]  # type: ignore[index]
        last = generator.up[-1][1]  # type: ignore[index]
        first.weight[0] = 0
        first.weight[0, 0, 1, 1] = 3.4e38 if precision == "bfloat16" else 1e30
        second.weight[:, 0] = 0
        last.weight[0] = 0
    return Checkpoint(checkpoint.contract, generator, checkpoint.digest)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_pass_that_overflows_in_16_bits_is_computed_again(
    overflowing: Checkpoint, source: RgbImage, precision: Precision, device: str
) -> None:
    needed, tally = np.zeros((5, 5), bool), NormalizationCounts()
    needed[:2] = True
    found = GeneratorNormalizer(
        GeneratorPredictor(overflowing, device, precision), WHITE, stride_px=512, batch=2
    ).apply(source, needed, ARTIFACT, tally)
    assert tally.retried == 2
    exact = GeneratorNormalizer(
        GeneratorPredictor(overflowing, device, "float32"), WHITE, stride_px=512, batch=2
    ).apply(source, needed, ARTIFACT, tally)
    np.testing.assert_array_equal(found, exact)
    assert tally.retried == 2
    window = source[:288, :288]
    predictor = GeneratorPredictor(overflowing, device, precision)
    _, found_here = next(predictor.predict_all([window], STATISTICS, predictor.halo))
    assert np.abs(found_here.astype(int) - exact[32:128, 32:128]).max() <= int(device == "cuda")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_no_number_in_float32_either_is_an_error(
    checkpoint: Checkpoint, source: RgbImage, precision: Precision
) -> None:
    broken = Checkpoint(checkpoint.contract, copy.deepcopy(checkpoint.generator), checkpoint.digest)
    with torch.no_grad():
        next(iter(broken.generator.parameters()))[0, 0, 0, 0] = float("nan")
    normalizer = GeneratorNormalizer(GeneratorPredictor(broken, "cpu", precision), WHITE, stride_px=512)
    with pytest.raises(CheckpointError, match="in float32 as well"):
        normalizer.apply(source, np.ones((5, 5), bool), ARTIFACT)


@pytest.fixture
def untranslated() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("untranslated")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.slow), DEVICES[1]])
def test_a_compiled_generator_gives_the_same_picture(checkpoint: Checkpoint, source: RgbImage, device: str) -> None:
    pictures = []
    for compiled in (False, True):
        predictor = GeneratorPredictor(checkpoint, device, "float32", compiled)
        normalizer = GeneratorNormalizer(predictor, WHITE, stride_px=512, batch=2)
        pictures.append(normalizer.apply(source, np.ones((5, 5), bool), ARTIFACT).astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
