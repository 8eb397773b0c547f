"""Encoders of patches into features: a network of torchvision, or an ONNX file. No pickled code is loaded.

Both see RGB patches of one size, scaled as networks trained on ImageNet expect it: (value / 255 - mean) / deviation.
The same patches and encoder give the same features on the same kind of device with the same number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from wsi_stain.core.arrays import RgbTiles
from wsi_stain.core.errors import ConfigError
from wsi_stain.core.records import StrictRecord
from wsi_stain.evaluation.robustness.patches import Features

_MEAN, _DEVIATION = np.array([(0.485, 0.456, 0.406), (0.229, 0.224, 0.225)], np.float32)
_BATCH = 64

Encode = Callable[[RgbTiles], Features]
"""Features, (n, d), of patches, (n, side, side, 3)."""


class EncoderConfig(StrictRecord):
    """Choice of an encoder.

    Attributes:
        encoder: A classification network of torchvision, by name, whose last layer is left out; or an ONNX file.
        weights: The network's weights, a safetensors file; none: see `download`.
        download: Whether torchvision may download its own weights; else they are random.
    """

    encoder: str = "resnet18"
    weights: Path | None = None
    download: bool = False

    @property
    def is_onnx(self) -> bool:
        """Whether it is an ONNX file."""
        return self.encoder.lower().endswith(".onnx")

    def describe(self) -> str:
        """Return what it is, for people."""
        if self.is_onnx:
            return Path(self.encoder).name
        trained = "torchvision's weights" if self.download else "random weights, untrained"
        return f"{self.encoder}, {self.weights.name if self.weights else trained}"


def load_encoder(config: EncoderConfig, device: str = "cpu") -> Encode:
    """Load an encoder.

    Raises:
        ConfigError: There is none of that name, or its weights do not fit.
    """
    if config.is_onnx:
        if config.weights or config.download:
            raise ConfigError("An ONNX file has its own weights", "Leave out --weights and --download-weights")
        return _load_onnx(Path(config.encoder))
    network = _load_network(config).to(device)

    def encode(patches: RgbTiles) -> Features:
        with torch.inference_mode():
            parts = [
                network(torch.from_numpy(_as_input(patches[start : start + _BATCH])).to(device)).float().cpu().numpy()
                for start in range(0, len(patches), _BATCH)
            ]
        return np.concatenate(parts)

    return encode


def _load_network(config: EncoderConfig) -> nn.Module:
    known = torchvision.models.list_models(module=torchvision.models)
    if config.encoder not in known:
        raise ConfigError(
            f"torchvision has no network {config.encoder}", "Give resnet18, resnet50, vit_b_16, ..., or a file .onnx"
        )
    if config.weights and config.download:
        raise ConfigError("There are two kinds of weights", "Give --weights or --download-weights, not both")
    torch.manual_seed(0)
    network: nn.Module = torchvision.models.get_model(config.encoder, weights=None)
    try:
        if config.weights:
            network.load_state_dict(load_file(config.weights))
        elif config.download:
            url = torchvision.models.get_model_weights(config.encoder).DEFAULT.url
            network.load_state_dict(torch.hub.load_state_dict_from_url(url, check_hash=True, weights_only=True))
    except (OSError, RuntimeError, SafetensorError) as error:
        problem = str(error).splitlines()[0]
        raise ConfigError(f"The weights of {config.encoder} cannot be loaded: {problem}", "Check them") from error
    _drop_head(network)
    return network.eval()


def _drop_head(network: nn.Module) -> None:
    """Put the identity in place of the layer that names classes: a network's last linear one."""
    name = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())


def _load_onnx(path: Path) -> Encode:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            "An ONNX file needs onnxruntime, which is not installed", "pip install 'wsi-stain[onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the order of sums, and so the features, depend on it
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base
        raise ConfigError(
            f"{path} is no ONNX file that can be used: {str(error).splitlines()[0]}", "Check it"
        ) from error
    name = session.get_inputs()[0].name

    def encode(patches: RgbTiles) -> Features:
        try:
            parts = [
                _as_vectors(session.run(None, {name: _as_input(patches[start : start + _BATCH])})[0])
                for start in range(0, len(patches), _BATCH)
            ]
        except Exception as error:
            wanted, given = session.get_inputs()[0].shape, ["n", 3, *patches.shape[1:3]]
            raise ConfigError(
                f"{path.name} takes {wanted} and cannot encode patches of {given}: {str(error).splitlines()[0]}",
                "Give --side; export it with a free number of patches, first axis",
            ) from error
        return np.concatenate(parts)

    return encode


def _as_vectors(output: NDArray[np.float32]) -> Features:
    """Return a vector a patch: maps, (n, d, h, w), are averaged; of tokens, (n, tokens, d), the first is taken."""
    if output.ndim == 4:
        return np.asarray(output.mean(axis=(2, 3)), np.float32)
    return output[:, 0] if output.ndim == 3 else output


def _as_input(patches: RgbTiles) -> Features:
    scaled = (patches.astype(np.float32) / 255 - _MEAN) / _DEVIATION
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
