"""A checkpoint's generator as an ONNX file, for programs without torch; how templates are made it does not know.

The file takes `template`, (batch, C, H, W), and gives `rgb`, (batch, 3, H, W), both float32 in [-1, 1], as
`Generator.forward` does in eval mode: without dropout, and with BatchNorm's trained statistics within the convolutions.
Batch is free; H and W are multiples of 2**downs. Its metadata holds the contract as JSON, `wsi_stain`, and the
checkpoint's SHA-256, `wsi_stain_checkpoint`. The same checkpoint and versions of torch and onnxscript give the same
bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from wsi_stain.core.errors import ConfigError, OutputError
from wsi_stain.core.journal import atomic_write
from wsi_stain.pix2pix.checkpoint import Checkpoint
from wsi_stain.pix2pix.generator import Generator
from wsi_stain.pix2pix.inference_generator import InferenceGenerator

_TOLERANCE = 1e-4  # of values in [-1, 1], where a grey level is 0.0078


def export(checkpoint: Checkpoint, path: Path) -> float:
    """Write a generator as ONNX, atomically, once onnxruntime was seen to give what torch gives.

    Args:
        checkpoint: On the CPU; ONNX holds at most 2 GiB of weights.
        path: The file, `*.onnx`; it is replaced.

    Returns:
        The largest difference that was seen, of values in [-1, 1].

    Raises:
        ConfigError: The extra `onnx` is not installed, or the file has another suffix.
        OutputError: The difference is above 1e-4 or no number, or the file cannot be written.
    """
    if path.suffix != ".onnx":
        raise ConfigError(f"Expected a file *.onnx to write, got {path}", f"Write {path.with_suffix('.onnx')}")
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise ConfigError(f"ONNX needs a package that is missing: {error}", "pip install 'wsi-stain[onnx]'") from error
    model = _build_model(checkpoint.generator)
    model.metadata_props.add(key="wsi_stain", value=checkpoint.contract.model_dump_json())
    model.metadata_props.add(key="wsi_stain_checkpoint", value=checkpoint.digest)
    content: bytes = model.SerializeToString(deterministic=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    difference = _difference(session, checkpoint.generator)
    if not difference <= _TOLERANCE:  # so that NaN is refused too
        raise OutputError(
            f"{path} is not written: onnxruntime and torch differ by {difference:g}, expected at most {_TOLERANCE:g}",
            "Normalize a slide with the checkpoint; if that looks right, upgrade torch, onnxscript and onnxruntime",
        )
    atomic_write(path, content)
    return difference


def _build_model(generator: Generator) -> Any:
    """Build the network as onnx.ModelProto, without the exporter's notes, which hold paths of this machine."""
    network = nn.Sequential(InferenceGenerator(generator), nn.Tanh()).eval()
    step = 2**generator.config.downs
    free = {0: Dim("batch"), 2: step * Dim("h"), 3: step * Dim("w")}
    names: dict[str, Any] = {"input_names": ["template"], "output_names": ["rgb"], "dynamic_shapes": (free,)}
    example_BCHW = torch.zeros(2, generator.config.in_channels, 2 * step, 3 * step)  # sizes of 1 would stay fixed
    program: Any = torch.onnx.export(network, (example_BCHW,), dynamo=True, verbose=False, **names)
    model = program.model_proto  # made anew each time it is asked for
    graph = model.graph
    for annotated in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        annotated.ClearField("metadata_props")
    return model


def _difference(session: Any, generator: Generator) -> float:
    channels, step = generator.config.in_channels, 2**generator.config.downs
    template_BCHW = torch.rand(1, channels, step, 2 * step, generator=torch.Generator().manual_seed(0)) * 2 - 1
    (rgb_BCHW,) = session.run(None, {"template": template_BCHW.numpy()})
    return float((torch.from_numpy(rgb_BCHW) - generator(template_BCHW)).abs().max())
