"""What a run normalizes to: a trained checkpoint, or for a classical method what it takes from the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_stain.core.arrays import Rgb8, round_rgb
from wsi_stain.core.errors import CheckpointError, ConfigError
from wsi_stain.core.icc import decode_profile
from wsi_stain.core.journal import file_digest, write_json
from wsi_stain.laboratories.named import NamedLaboratory
from wsi_stain.metrics.chromatin import NuclearDetail
from wsi_stain.normalizers.classical_reference import (
    ClassicalReference,
    measure_classical_reference,
    reference_of_checkpoint,
)
from wsi_stain.normalizers.config import Method
from wsi_stain.normalizers.simulated.laboratory import LaboratoryNormalizer
from wsi_stain.normalizers.simulated.usual_slide import usual_stain
from wsi_stain.pix2pix.checkpoint import Checkpoint, read_contract
from wsi_stain.pix2pix.contract import HeldOutScores
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import SlideRecord, StoredSlide


@dataclass(frozen=True)
class NormalizationTarget:
    """A checkpoint or a classical reference, by its file and the parts of its contract that reach the outputs.

    Attributes:
        path: The safetensors file; for a classical reference a JSON file.
        digest: SHA-256 of its bytes.
        white: The reference's white, R, G, B, 0 to 255: the colour of all glass in the outputs.
        icc_profile: The reference's ICC profile, which outputs embed.
        reference: Stain of the reference, which every slide is brought to.
        nuclei: The reference's nuclei, where they are known.
        template: Kind of template that the generator takes; `none` for a classical reference.
        icc_policy: What was done with the reference's ICC profile: `keep` or `srgb`.
        stain_passes: How many times the generator refines a slide's stain statistics.
        scores: How good the checkpoint was in training; None where it does not say.
    """

    path: Path
    digest: str
    white: Rgb8
    icc_profile: bytes | None
    reference: StainStatistics
    nuclei: NuclearDetail | None
    template: str
    icc_policy: str
    stain_passes: int = 0
    scores: HeldOutScores | None = None

    @classmethod
    def load(cls, path: Path) -> NormalizationTarget:
        """Read a checkpoint, whose weights are checked once before any slide is begun.

        Raises:
            CheckpointError: It is damaged, or no checkpoint.
        """
        checkpoint = Checkpoint.load(path)
        contract = checkpoint.contract
        white, profile = round_rgb(contract.white), decode_profile(contract.icc_profile)
        template = contract.template
        return cls(
            path=path,
            digest=checkpoint.digest,
            white=white,
            icc_profile=profile,
            reference=template.reference,
            nuclei=contract.nuclei,
            template=template.kind,
            icc_policy=contract.icc_policy,
            stain_passes=contract.stain_passes,
            scores=contract.scores,
        )

    @classmethod
    def of_classical(cls, reference: ClassicalReference, path: Path) -> NormalizationTarget:
        """Write a classical reference to its file, from which the workers read it."""
        write_json(path, reference.model_dump(mode="json"))
        white, profile = round_rgb(reference.stain.white), decode_profile(reference.icc_profile)
        return cls(
            path=path,
            digest=file_digest(path),
            white=white,
            icc_profile=profile,
            reference=reference.stain,
            nuclei=reference.nuclei,
            template="none",
            icc_policy=reference.icc_policy,
        )

    @classmethod
    def of_laboratory(cls, laboratory: NamedLaboratory, path: Path) -> NormalizationTarget:
        """Write a simulated laboratory to its file, from which the workers read it."""
        write_json(path, laboratory.model_dump(mode="json", exclude_defaults=True))
        return cls(
            path=path,
            digest=file_digest(path),
            white=LaboratoryNormalizer(laboratory).white,
            icc_profile=None,
            reference=usual_stain(laboratory),
            nuclei=None,
            template="none",
            icc_policy="keep",
        )

    @property
    def facts(self) -> dict[str, Any]:
        """Its entries in run.json: the reference's stain and nuclei, and the file's name and SHA-256."""
        return {
            "reference": self.reference.model_dump(mode="json"),
            "reference_nuclei": self.nuclei.model_dump(mode="json") if self.nuclei else None,
            "checkpoint": {"file": self.path.name, "sha256": self.digest},
        }

    def check_quality(self, accept_poor: bool) -> str:
        """Refuse a checkpoint that did worse in training than no normalization at all.

        Args:
            accept_poor: Whether the user wants it nevertheless.

        Returns:
            What is to be said of it; empty where all is well.

        Raises:
            CheckpointError: It did, and the user did not say so.
        """
        if self.scores is None:
            return ""
        if self.scores.is_poor and not accept_poor:
            raise CheckpointError(
                f"{self.path}: {self.scores.warning}",
                "Train it longer, or with a lower training.lr; --accept-poor-checkpoint uses it as it is",
            )
        return self.scores.warning

    def check_colours(self, record: SlideRecord) -> None:
        """Refuse a slide whose pixels are in another colour space than those the generator was trained on."""
        if record.icc_policy != self.icc_policy:
            raise CheckpointError(
                f"The reference was read with ICC policy {self.icc_policy}, the slide has {record.icc_policy}",
                f"Set tiling.slide.icc to {self.icc_policy} and run again",
            )


def choose_classical_reference(
    method: Method, checkpoint: Path | None, references: Sequence[StoredSlide]
) -> ClassicalReference:
    """Take what a classical method needs of the reference: from a checkpoint where one is given, else from its tiles.

    Raises:
        CheckpointError: The checkpoint is damaged, or none.
        ConfigError: The method cannot be had from what is given.
    """
    if method == "pix2pix" or method == "simulated":
        raise ConfigError(f"{method} takes no classical reference", "Choose reinhard, macenko or vahadane")
    if checkpoint is not None:
        return reference_of_checkpoint(read_contract(checkpoint), method)
    return measure_classical_reference(method, references)
