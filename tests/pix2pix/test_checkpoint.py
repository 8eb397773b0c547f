"""Checkpoints: round trip, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.support.slide_files import write_slide
from wsi_stain.core.errors import CheckpointError
from wsi_stain.core.geometry import Mpp
from wsi_stain.pix2pix.checkpoint import Checkpoint, read_contract, save
from wsi_stain.pix2pix.config import GeneratorConfig
from wsi_stain.pix2pix.contract import Contract, HeldOutScores
from wsi_stain.pix2pix.generator import Generator
from wsi_stain.slides.slide import Slide, SlideConfig
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.stain.template import Template

STATISTICS = StainStatistics(
    white=(244.0, 243.0, 246.0),
    white_origin="glass",
    vectors=((0.55, 0.75, 0.37), (0.2, 0.95, 0.24)),
    h_nuclei=1.2,
    h_stroma=0.3,
    e_nuclei=0.3,
    e_stroma=0.5,
    lum_nuclei=1.1,
    lum_stroma=0.5,
    dark_ratio=1.3,
    pixels=4000,
)
SMALL = GeneratorConfig(downs=3, ngf=4)


def contract(**changes: Any) -> Contract:
    fields = {
        "generator": SMALL,
        "template": Template(kind="gray", reference=STATISTICS),
        "mpp": 0.25,
        "training_fingerprint": "f" * 64,
        "version": "0.1.0",
    }
    return Contract.model_validate({**fields, **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    save(tmp_path / "c.safetensors", Generator(SMALL), contract())
    return tmp_path / "c.safetensors"


def test_round_trip(path: Path) -> None:
    torch.manual_seed(1)
    original = Generator(SMALL).eval()
    loaded = Checkpoint.load(path)
    image = torch.rand(1, 1, 24, 40)
    assert torch.equal(loaded.generator(image), original(image))
    assert not loaded.generator.training
    assert not any(parameter.requires_grad for parameter in loaded.generator.parameters())
    assert loaded.contract == contract()
    assert loaded.contract.white == STATISTICS.white


def test_keeps_the_colour_correction(path: Path) -> None:
    assert Checkpoint.load(path).correction is None
    table = np.random.default_rng(0).uniform(0, 255, (5, 5, 5, 3)).astype(np.float32)
    save(path, Generator(SMALL), contract(), table)
    loaded = Checkpoint.load(path).correction
    assert loaded is not None
    np.testing.assert_array_equal(loaded, table)
    assert read_contract(path).correction_size == 5


@pytest.mark.parametrize(("size", "wrong"), [(5, np.nan), (5, -1), (5, 256), (1, 128)])
def test_refuses_a_correction_that_has_no_colours(path: Path, size: int, wrong: float) -> None:
    save(path, Generator(SMALL), contract(), np.full((size, size, size, 3), wrong, np.float32))
    with pytest.raises(CheckpointError, match="0 to 255"):
        Checkpoint.load(path)


def test_same_weights_same_bytes(path: Path) -> None:
    torch.manual_seed(1)
    again = path.with_name("again.safetensors")
    save(again, Generator(SMALL).to(memory_format=torch.channels_last), contract())
    assert again.read_bytes() == path.read_bytes()
    assert Checkpoint.load(again).digest == Checkpoint.load(path).digest


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    fields = contract().model_dump(mode="json")
    change(fields)
    save_file(load_file(path), path, {"wsi_stain": json.dumps(fields)})


def write_pickle(path: Path) -> None:
    torch.save(Generator(SMALL).state_dict(), path)


def text(path: Path) -> None:
    path.write_text("weights: none\n")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def no_contract(path: Path) -> None:
    save_file(load_file(path), path, {"format": "pt"})


def later_format(path: Path) -> None:
    rewrite(path, lambda fields: fields.update(format=4))


def unknown_key(path: Path) -> None:
    rewrite(path, lambda fields: fields.update(colour="blue"))


def huge_architecture(path: Path) -> None:
    rewrite(path, lambda fields: fields["generator"].update(downs=10, ngf=1024))


def metadata(path: Path, text: str) -> None:
    save_file(load_file(path), path, {"wsi_stain": text})


def nested_contract(path: Path) -> None:
    metadata(path, "[" * 100_000)


def nested_value(path: Path) -> None:
    metadata(path, contract().model_dump_json()[:-1] + ', "scores": ' + '{"generator": ' * 900 + "1" + "}" * 901)


def profile_that_is_no_base64(path: Path) -> None:
    rewrite(path, lambda fields: fields.update(icc_profile="abcde"))


def huge_profile(path: Path) -> None:
    rewrite(path, lambda fields: fields.update(icc_profile="A" * 40 * 2**20))


def black_white(path: Path) -> None:
    rewrite(path, lambda fields: fields["template"]["reference"].update(white=[0, 0, 0]))


def absurd_level(path: Path) -> None:
    rewrite(path, lambda fields: fields["template"]["reference"].update(h_nuclei=1e300))


def absurd_vector(path: Path) -> None:
    rewrite(path, lambda fields: fields["template"]["reference"].update(vectors=[[1e9, 1, 1], [0.2, 0.9, 0.4]]))


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def drop_tensor(path: Path) -> None:
    tensors = load_file(path)
    del tensors["up.0.1.weight"]
    save_file(tensors, path, {"wsi_stain": contract().model_dump_json()})


def flip_a_weight_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def edit(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        fields = json.loads(file.metadata()["wsi_stain"])
    save_file(load_file(path), path, {"wsi_stain": json.dumps({**fields, "mpp": 0.5})})


REFUSED = [
    (write_pickle, "pickled"),
    (text, "not a checkpoint"),
    (cut_short, "not a checkpoint"),
    (empty, "not a checkpoint"),
    (remove, "Check the path"),
    (directory, "it is a directory"),
    (fifo, "it is a FIFO"),
    (device, "it is a device"),
    (nested_contract, "without the contract"),
    (nested_value, "scores"),
    (profile_that_is_no_base64, "not base64"),
    (huge_profile, "the ICC profile has 31 MB, at most 8 are used"),
    (black_white, "white must lie between 16 and 255"),
    (absurd_level, "h_nuclei"),
    (absurd_vector, "unit length"),
    (no_contract, "without the contract"),
    (later_format, "format 4"),
    (unknown_key, "colour"),
    (huge_architecture, "differ"),
    (drop_tensor, "up.0.1.weight"),
]


@pytest.mark.parametrize(("spoil", "says"), REFUSED, ids=[case[0].__name__ for case in REFUSED])
def test_refused_with_a_remedy(path: Path, spoil: Callable[[Path], None], says: str) -> None:
    spoil(path)
    for read in (Checkpoint.load, read_contract):
        with pytest.raises(CheckpointError, match=says) as caught:
            read(path)
        assert caught.value.remedy


@pytest.mark.parametrize("spoil", [flip_a_weight_bit, edit], ids=lambda spoil: spoil.__name__)
def test_changed_weights_or_contract_are_refused_where_weights_are_read(
    path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(path)
    with pytest.raises(CheckpointError, match="damaged: expected weights and contract of SHA-256") as caught:
        Checkpoint.load(path)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("generator", "untouched", "reinhard", "poor", "says"),
    [
        (3.0, 7.0, 3.1, False, ""),
        (3.5, 7.0, 3.1, False, "worse than Reinhard's method: on held-out tiles its mean CIEDE2000"),
        (28.5, 9.5, 4.0, True, "worse than no normalization at all"),
    ],
)
def test_a_generator_that_is_worse_than_nothing_is_poor(
    generator: float, untouched: float, reinhard: float, poor: bool, says: str
) -> None:
    scores = HeldOutScores(generator=generator, untouched=untouched, reinhard=reinhard)
    assert scores.is_poor == poor
    assert says in scores.warning and bool(scores.warning) == bool(says)


@pytest.mark.parametrize("mpp", [Mpp(0.22, 0.22), Mpp(0.2528, 0.2528), Mpp(0.28, 0.25)])
def test_fits_within_the_tolerance(path: Path, mpp: Mpp) -> None:
    read_contract(path).check_fits(mpp)


@pytest.mark.parametrize(
    ("mpp", "says"),
    [(Mpp(0.5, 0.5), "--slide-mpp 0.25"), (Mpp(0.125, 0.125), "--mpp 0.25"), (Mpp(0.25, 0.4), "0.25 x 0.4")],
)
def test_other_resolution_is_refused(path: Path, mpp: Mpp, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        read_contract(path).check_fits(mpp)


def test_template_and_generator_must_agree() -> None:
    with pytest.raises(ValidationError, match="2 channels"):
        contract(template=Template(kind="he", reference=STATISTICS))


def test_the_remedy_for_a_wrong_resolution_works_when_it_is_followed(path: Path, tmp_path: Path) -> None:
    """40000 pixels per inch were meant to be per centimetre: 0.635 um/px instead of 0.25."""
    pixels = np.full((130, 201, 3), (180, 90, 150), np.uint8)
    slide_path = write_slide(tmp_path / "a.tif", [pixels], mpp=0.635)
    checkpoint = read_contract(path)
    with Slide(slide_path) as slide, pytest.raises(CheckpointError) as caught:
        checkpoint.check_fits(slide.mpp)
    flag, value = caught.value.remedy.split()[-2:]
    assert flag == "--slide-mpp" and "--mpp " not in caught.value.remedy.replace("--slide-mpp", "")
    with Slide(slide_path, SlideConfig(slide_mpp=float(value))) as slide:
        checkpoint.check_fits(slide.mpp)
