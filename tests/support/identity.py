"""A normalization that changes nothing, in place of every mode: pixels pass all its doors and must come out again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from wsi_stain.core.arrays import Rgb8
from wsi_stain.normalizers.base import FACTORIES, IdentityNormalizer, NormalizeConfig, Normalizer
from wsi_stain.pix2pix.checkpoint import Checkpoint


@contextmanager
def identity_in_every_mode() -> Iterator[None]:
    """In this process, so with 0 workers, whatever checkpoint and mode are asked for give the identity."""
    with pytest.MonkeyPatch.context() as patch:
        for mode in FACTORIES:
            patch.setitem(FACTORIES, mode, _make)
        yield


def _make(checkpoint: Checkpoint, white: Rgb8, config: NormalizeConfig, device: str) -> Normalizer:
    return IdentityNormalizer(white)
