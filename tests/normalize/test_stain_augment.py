"""Patches as simulated laboratories show them, in torchvision's v2 pipelines."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from tests.cohort.test_reference import STAIN
from tests.laboratories.test_named import write_table
from tests.support.made_store import paint_tissue
from wsi_stain import StainAugment
from wsi_stain.core.errors import ConfigError
from wsi_stain.core.geometry import Size
from wsi_stain.laboratories.colours import laboratory_table
from wsi_stain.laboratories.named import load_laboratories
from wsi_stain.stain.colour_table import apply_table

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def patch() -> Pixels:
    return paint_tissue(Size(96, 80), seed=1)


def tensor(pixels: Pixels) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def test_each_image_gets_a_laboratory_of_its_own_and_a_seed_repeats_it(patch: Pixels) -> None:
    augment = StainAugment(STAIN)
    torch.manual_seed(1)
    first, second = augment.augment(patch), augment.augment(patch)
    assert not np.array_equal(first, second)
    torch.manual_seed(1)
    assert np.array_equal(augment.augment(patch), first)
    batch = augment(torch.stack([tensor(patch)] * 3))
    assert batch.dtype == torch.uint8
    assert len({image.numpy().tobytes() for image in batch}) == 3
    assert 2 < np.abs(first.astype(float) - patch).mean() < 80


def test_a_named_laboratory_is_the_one_that_simulate_shows(patch: Pixels) -> None:
    (purple,) = load_laboratories("purple")
    shown = StainAugment({"a": STAIN}, ["purple"]).augment(patch, "a")
    table = apply_table(laboratory_table(purple, STAIN), patch)
    assert np.abs(shown.astype(float) - table).mean() < 0.5


def test_a_scanners_table_is_a_laboratory(patch: Pixels, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("table")
    write_table(folder / "t.npz", gain=0.5)
    (folder / "x.yaml").write_text("laboratories: {half: {table: t.npz}}")
    white = STAIN.model_copy(update={"white": (240.0, 240.0, 240.0)})
    shown = StainAugment(white, [str(folder / "x.yaml")]).augment(patch)
    assert np.abs(shown - 0.5 * patch).max() < 2


def test_it_takes_what_v2_transforms_take(patch: Pixels) -> None:
    augment = StainAugment({"a": STAIN, "b": STAIN}, strength=0.5)
    mask = tv_tensors.Mask(torch.zeros(1, 80, 96))
    sample = augment({"image": tv_tensors.Image(tensor(patch)), "mask": mask, "slide": "b", "label": 3})
    assert isinstance(sample["image"], tv_tensors.Image) and sample["mask"] is mask and sample["label"] == 3
    assert isinstance(augment.of("a")(Image.fromarray(patch)), Image.Image)
    pipeline = v2.Compose([augment.of("a"), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])
    assert pipeline(tensor(patch)).dtype == torch.float32
    with pytest.raises(ConfigError, match="2 slides"):
        augment(tensor(patch))
    torch.manual_seed(3)
    first = augment.augment(patch, "a")
    torch.manual_seed(3)
    assert np.array_equal(pickle.loads(pickle.dumps(augment)).augment(patch, "a"), first)


def test_p_is_the_share_that_changes(patch: Pixels) -> None:
    assert np.array_equal(StainAugment(STAIN, p=0.0).augment(patch), patch)
    torch.manual_seed(0)
    augment = StainAugment(STAIN, p=0.5)
    changed = sum(not np.array_equal(augment.augment(patch), patch) for _ in range(40))
    assert 10 < changed < 30
    for wrong in ({"p": 2.0}, {"strength": -1.0}):
        with pytest.raises(ConfigError):
            StainAugment(STAIN, **wrong)
    with pytest.raises(ConfigError, match="no laboratory nowhere"):
        StainAugment(STAIN, ["nowhere"])
