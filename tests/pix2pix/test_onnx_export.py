"""Generators as ONNX: onnxruntime gives what torch gives, and what cannot be exported is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.support.commands import Run
from tests.support.made_checkpoint import STATISTICS, write_untrained
from wsi_stain.core.errors import ConfigError, OutputError
from wsi_stain.pix2pix.checkpoint import Checkpoint, save
from wsi_stain.pix2pix.config import GeneratorConfig
from wsi_stain.pix2pix.contract import Contract
from wsi_stain.pix2pix.generator import Generator
from wsi_stain.pix2pix.onnx_export import export
from wsi_stain.stain.template import Template


def lively(path: Path, config: GeneratorConfig) -> Checkpoint:
    """A checkpoint that never trained, yet has BatchNorm statistics and outputs that vary, as after training."""
    torch.manual_seed(3)
    generator = Generator(config)
    for name, values in generator.state_dict().items():
        if name.endswith("running_mean"):
            values.uniform_(-0.5, 0.5)
        elif name.endswith("running_var"):
            values.uniform_(0.5, 2)
        elif values.ndim == 4:
            values.mul_(5)
    template = Template(kind="gray" if config.in_channels == 1 else "he", reference=STATISTICS)
    contract = Contract(generator=config, template=template, mpp=0.5, training_fingerprint="0" * 64, version="0")
    save(path, generator, contract)
    return Checkpoint.load(path)


@pytest.mark.parametrize(
    "config",
    [
        GeneratorConfig(downs=3, ngf=8),
        GeneratorConfig(downs=4, ngf=4, in_channels=2, upsample="resize"),
    ],
    ids=["deconv", "resize"],
)
def test_onnxruntime_gives_what_torch_gives(tmp_path: Path, config: GeneratorConfig) -> None:
    checkpoint = lively(tmp_path / "c.safetensors", config)
    assert export(checkpoint, tmp_path / "g.onnx") < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "g.onnx")
    for shape in [(1, 64, 64), (3, 32, 112)]:
        template = torch.rand(shape[0], config.in_channels, *shape[1:]) * 2 - 1
        wanted = checkpoint.generator(template).numpy()
        (found,) = session.run(["rgb"], {"template": template.numpy()})
        assert wanted.std() > 0.05, "a flat picture would show no difference"
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_the_file_tells_its_contract_and_nothing_of_this_machine(tmp_path: Path) -> None:
    checkpoint = Checkpoint.load(write_untrained(tmp_path / "c.safetensors"))
    export(checkpoint, tmp_path / "g.onnx")
    model = onnx.load(tmp_path / "g.onnx")
    onnx.checker.check_model(model, full_check=True)
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert Contract.model_validate(json.loads(told["wsi_stain"])) == checkpoint.contract
    assert told["wsi_stain_checkpoint"] == checkpoint.digest
    (given,) = model.graph.input
    assert [side.dim_param or side.dim_value for side in given.type.tensor_type.shape.dim] == [
        "batch",
        1,
        "32*h",
        "32*w",
    ]
    content = (tmp_path / "g.onnx").read_bytes()
    assert str(Path(__file__).parent.parent.parent).encode() not in content
    assert sys.prefix.encode() not in content
    export(checkpoint, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == content


def test_a_generator_that_gives_no_numbers_is_not_written(tmp_path: Path) -> None:
    checkpoint = Checkpoint.load(write_untrained(tmp_path / "c.safetensors"))
    checkpoint.generator.state_dict()["up.0.1.weight"].fill_(torch.nan)
    with pytest.raises(OutputError, match="differ by nan"):
        export(checkpoint, tmp_path / "g.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    checkpoint = Checkpoint.load(write_untrained(tmp_path / "c.safetensors"))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{package}.*pip install 'wsi-stain\[onnx\]'"):
        export(checkpoint, tmp_path / "g.onnx")


def test_the_command(tmp_path: Path, wsi_stain: Run) -> None:
    checkpoint, model = write_untrained(tmp_path / "c.safetensors"), tmp_path / "new" / "g.onnx"
    ended = wsi_stain("export", checkpoint, model)
    assert ended.code == 0, ended.err
    assert "multiples of 32" in ended.out
    assert onnxruntime.InferenceSession(model).get_outputs()[0].name == "rgb"

    weights = checkpoint.read_bytes()
    ended = wsi_stain("export", checkpoint, checkpoint)
    assert ended.code == 1
    assert "remedy: Write" in ended.err
    assert checkpoint.read_bytes() == weights

    ended = wsi_stain("export", model, tmp_path / "other.onnx")
    assert ended.code == 1
    assert "not a checkpoint" in ended.err
    assert "remedy: Give the checkpoint.safetensors" in ended.err
    assert not (tmp_path / "other.onnx").exists()
