"""What a run must know of the checkpoint it normalizes with."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from wsi_stain.checkpoint import Checkpoint


@dataclass(frozen=True)
class Model:
    """A checkpoint, by its file and the parts of its contract that reach the outputs.

    Attributes:
        path: The safetensors file.
        digest: SHA-256 of its bytes.
        white: The reference's white, R, G, B, 0 to 255: the colour of all glass in the outputs.
        icc_profile: The reference's ICC profile, which outputs embed.
        template: Kind of template that the generator takes.
    """

    path: Path
    digest: str
    white: tuple[int, int, int]
    icc_profile: bytes | None
    template: str

    @classmethod
    def load(cls, path: Path) -> Model:
        """Read a checkpoint's contract.

        Raises:
            CheckpointError: It is damaged, or no checkpoint.
        """
        checkpoint = Checkpoint.load(path)
        contract = checkpoint.contract
        red, green, blue = (round(value) for value in contract.white)
        profile = base64.b64decode(contract.icc_profile) if contract.icc_profile else None
        return cls(path, checkpoint.digest, (red, green, blue), profile, contract.template.kind)
