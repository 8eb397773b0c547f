"""Encoders: networks of torchvision without their last layer, ONNX files; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from tests.support.centres import write_encoder
from wsi_stain.core.errors import ConfigError
from wsi_stain.evaluation.robustness.encoders import EncoderConfig, load_encoder

PATCHES = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
NETWORK = "shufflenet_v2_x0_5"


def test_a_network_gives_what_goes_into_its_last_layer(tmp_path: Path) -> None:
    torch.manual_seed(5)
    network = torchvision.models.get_model(NETWORK, weights=None).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    features = load_encoder(EncoderConfig(encoder=NETWORK, weights=tmp_path / "w.safetensors"))(PATCHES)
    assert features.shape == (3, 1024) and features.dtype == np.float32
    scaled = (PATCHES / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    with torch.inference_mode():
        classes = network(torch.from_numpy(scaled.transpose(0, 3, 1, 2)).float())
        expected = network.fc(torch.from_numpy(features))
    assert torch.allclose(classes, expected, atol=1e-4)


def test_random_weights_are_the_same_every_time() -> None:
    one, two = (load_encoder(EncoderConfig(encoder=NETWORK))(PATCHES) for _ in range(2))
    assert (one == two).all()
    assert "untrained" in EncoderConfig(encoder=NETWORK).describe()


def test_an_onnx_file_encodes(tmp_path: Path) -> None:
    encode = load_encoder(EncoderConfig(encoder=str(write_encoder(tmp_path / "e.onnx"))))
    features = encode(PATCHES)
    assert features.shape == (3, 9)
    reds = (PATCHES[..., 0].mean(axis=(1, 2)) / 255 - 0.485) / 0.229
    assert features[:, 0] == pytest.approx(reds, abs=1e-4)
    with pytest.raises(ConfigError, match="cannot encode"):
        encode(PATCHES[:, :3, :3])


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    faults = {
        "no network nonsense": EncoderConfig(encoder="nonsense"),
        "no ONNX file": EncoderConfig(encoder=str(tmp_path / "bad.onnx")),
        "cannot be loaded": EncoderConfig(encoder=NETWORK, weights=tmp_path / "bad.safetensors"),
        "own weights": EncoderConfig(encoder=str(tmp_path / "bad.onnx"), download=True),
    }
    for said, config in faults.items():
        with pytest.raises(ConfigError, match=said):
            load_encoder(config)
