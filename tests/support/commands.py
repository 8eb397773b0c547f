"""Command lines run in the tests' own process; the fixture `wsi_stain` is a `Run`. And a configuration for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]

TINY = """
accept_poor_checkpoint: true
training:
  template: gray
  generator: {downs: 3, ngf: 8, in_channels: 1}
  ndf: 8
  images: 480
  epochs: 1
  batch: 8
  lr: 0.002
  crop: 64
  laboratories: 2
  min_tissue: 0.2
  validation_tiles: 2
  calibration_images: 16
  correction_labs: 2
  panels: 2
  threads: 1
"""
"""Trains in seconds."""
