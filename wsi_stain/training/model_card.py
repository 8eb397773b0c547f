"""The model card that lies beside a checkpoint: what it was trained on, for what, not for what, and its scores.

It is meant to travel with the checkpoint, so it names no slide and no patient. After Mitchell et al. (2019), Model
Cards for Model Reporting, arXiv 1810.03993.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsi_stain.core.journal import atomic_write, file_digest
from wsi_stain.pix2pix.checkpoint import read_contract
from wsi_stain.pix2pix.contract import Contract, HeldOutScores
from wsi_stain.store import StoredSlide
from wsi_stain.training.config import TrainingConfig

CARD_NAME = "MODEL_CARD.md"

_FOR = """\
Bringing the colours of H&E slides to those of the reference, for reading side by side and for models that were made
for the reference's look. Slides within {tolerance:.0%} of {mpp:g} um/px; others are refused, or resampled (`--mpp`)."""

_NOT_FOR = """\
Diagnosis: nothing has been validated clinically. Other stains than H&E. Measuring how much stain there is, absolute
intensities, texture, focus or the quality of staining: these are what it changes. Pigment and ink, which it does not
know. Where a difference of stain between centres is the biology in question."""


def write_model_card(checkpoint: Path, slides: Sequence[StoredSlide], config: TrainingConfig) -> None:
    """Write the model card beside a checkpoint; the same checkpoint, slides and settings give the same text.

    Args:
        checkpoint: The file.
        slides: What it was trained on.
        config: How.

    Raises:
        CheckpointError: It is none, or damaged.
        OutputError: The card cannot be written.
    """
    contract = read_contract(checkpoint)
    sections = {
        "Trained on": _describe_slides(slides),
        "Trained how": _describe_training(contract, config),
        "For": _FOR.format(tolerance=contract.mpp_tolerance, mpp=contract.mpp),
        "Not for": _NOT_FOR,
        "Scores": _describe_scores(contract.scores),
        "Which file": f"`{checkpoint.name}`, SHA-256 `{file_digest(checkpoint)}`",
    }
    text = "\n\n".join(f"## {heading}\n\n{body}" for heading, body in sections.items())
    title = "# Model card: a stain normalizer of wsi-stain"
    atomic_write(checkpoint.with_name(CARD_NAME), f"{title}\n\n{text}\n".encode())


def _describe_slides(slides: Sequence[StoredSlide]) -> str:
    vendors = sorted({slide.record.vendor or "unknown" for slide in slides})
    sites = sorted({site for slide in slides if (site := slide.record.site or slide.record.group)})
    patients = {slide.record.patient for slide in slides if slide.record.patient}
    tiles = sum(int(slide.kept.sum()) for slide in slides)
    mpps = sorted({f"{slide.mpp.mean:.4g}" for slide in slides})
    return "\n".join(
        [
            f"- slides: {len(slides)}, tiles of tissue: {tiles}" + (f", patients: {len(patients)}" if patients else ""),
            f"- resolution: {', '.join(mpps)} um/px; scanner, as the files name its maker: {', '.join(vendors)}",
            *([f"- site, or group: {', '.join(sites)}"] if sites else []),
            "- tissue, disease, consent and licence of the slides: **to be filled in by who trained it**",
        ]
    )


def _describe_training(contract: Contract, config: TrainingConfig) -> str:
    return "\n".join(
        [
            f"- Pix2Pix of wsi-stain {contract.version}: template `{contract.template.kind}`, U-Net with "
            f"{contract.generator.downs} halvings and {contract.generator.ngf} channels in its first layer, "
            f"at {contract.shrink * contract.mpp:.3g} um/px",
            f"- {config.epochs} epochs of {config.images} images of {config.crop} px, seed {config.seed}; "
            + (f"shown as {config.laboratories} simulated laboratories" if config.augment else "shown as they are"),
            f"- fingerprint of slides and settings: `{contract.training_fingerprint}`",
        ]
    )


def _describe_scores(scores: HeldOutScores | None) -> str:
    if scores is None:
        return "No tile was held out, so nothing is known."
    rows = {"generator": scores.generator, "untouched": scores.untouched, "Reinhard": scores.reinhard}
    table = "\n".join(f"| {name} | {value:.2f} |" for name, value in rows.items())
    warning = f"\n\n**{scores.warning}.**" if scores.warning else ""
    return (
        "Mean colour difference (CIEDE2000, less is better) to the truth, on held-out tiles of the same slides shown "
        f"as simulated laboratories would:\n\n| | CIEDE2000 |\n|---|---|\n{table}{warning}\n\n"
        "Simulated laboratories are no real ones: judge it on your own slides with `wsi-stain evaluate`."
    )
