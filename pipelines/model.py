"""What a run must know of the checkpoint it normalizes with."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from wsi_stain.checkpoint import Checkpoint
from wsi_stain.errors import CheckpointError
from wsi_stain.store import SlideRecord


@dataclass(frozen=True)
class Model:
    """A checkpoint, by its file and the parts of its contract that reach the outputs.

    Attributes:
        path: The safetensors file.
        digest: SHA-256 of its bytes.
        white: The reference's white, R, G, B, 0 to 255: the colour of all glass in the outputs.
        icc_profile: The reference's ICC profile, which outputs embed.
        template: Kind of template that the generator takes.
        icc_policy: What was done with the reference's ICC profile: `keep` or `srgb`.
    """

    path: Path
    digest: str
    white: tuple[int, int, int]
    icc_profile: bytes | None
    template: str
    icc_policy: str

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
        return cls(path, checkpoint.digest, (red, green, blue), profile, contract.template.kind, contract.icc_policy)

    def check_colours(self, record: SlideRecord) -> None:
        """Refuse a slide whose pixels are in another colour space than those the generator was trained on."""
        if record.icc_policy != self.icc_policy:
            raise CheckpointError(
                f"The checkpoint was trained with ICC policy {self.icc_policy}, the slide has {record.icc_policy}",
                f"Set tiling.slide.icc to {self.icc_policy} and run again",
            )
