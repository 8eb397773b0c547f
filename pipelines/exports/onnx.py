"""The `export` command: a checkpoint's generator as ONNX, and what onnxruntime makes of it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from pipelines.shared.messages import print_line
from wsi_stain.pix2pix.checkpoint import Checkpoint
from wsi_stain.pix2pix.onnx_export import export


def run(checkpoint: Path, model: Path, console: Console) -> int:
    """Write the ONNX file.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        ConfigError: The extra `onnx` is not installed, or the file to write has another suffix.
        OutputError: The file does not give what torch gives, or cannot be written.
    """
    loaded = Checkpoint.load(checkpoint)
    difference = export(loaded, model)
    generator = loaded.contract.generator
    size = f"float32 (batch, {generator.in_channels}, H, W), H and W multiples of {2**generator.downs}"
    print_line(console, f"{model}: {size}; onnxruntime differs from torch by {difference:.1g} at most")
    return 0
