"""One direction of `evaluate scanners`, from a scanner to another: its scores are kept, so that a rerun goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.evaluate.methods import baselines, checkpoint_methods
from pipelines.evaluate.pairing import Pair, Pairing
from pipelines.evaluate.pairs import reference_stain, score_pairs
from pipelines.shared.config import RunConfig
from pipelines.shared.progress import Progress
from wsi_stain import __version__
from wsi_stain.core.journal import file_digest, fingerprint
from wsi_stain.core.receipts import Receipt, valid_receipt, write_receipt
from wsi_stain.evaluation.methods import Method
from wsi_stain.evaluation.pairs import PairScores
from wsi_stain.executor import Executor
from wsi_stain.store import StoredSlide

Scored = dict[str, PairScores]
"""The scores of each slide."""


class DirectionScores(Receipt):
    """Receipt of a direction of which no slide was left out.

    Attributes:
        slides: The scores of each slide.
        methods: The methods of each slide as they were compared; in a receipt's text all is sorted by name.
    """

    slides: Scored
    methods: dict[str, list[str]]


def name_of(store: Path) -> str:
    """Return a scanner's name: its store's, without the suffix."""
    return store.name.removesuffix(".zarr")


@dataclass(frozen=True)
class Direction:
    """One scanner's slides, normalized to another's.

    Attributes:
        source: Tile store of the scanner to be normalized.
        truth: Tile store of the other.
        checkpoint: A generator trained on the other's stain.
        modes: Modes to compare it in.
        baselines: Which classical methods to compare; none named means all.
        out: Where pictures, counts and scores go.
        config: Where the work runs.
    """

    source: Path
    truth: Path
    checkpoint: Path | None
    modes: Sequence[str]
    baselines: Sequence[str]
    out: Path
    config: RunConfig

    def find_pairs(self, executor: Executor, progress: Progress) -> dict[str, Pair]:
        """Find the slides that both scanners have, by name; ConfigError where there is none."""
        work = self.out / "work"
        return Pairing(work, self.config, None, "group", executor, progress).find(self.source, self.truth, None)

    def read_kept(self, pairs: Mapping[str, Pair]) -> Scored | None:
        """Read what an earlier run left of the same work; None where it left nothing, or some slide out."""
        kept = valid_receipt(self._scores, self._key(pairs), None, DirectionScores)
        return {name: _in_order(kept["slides"][name], kept["methods"][name]) for name in pairs} if kept else None

    def score(self, pairs: Mapping[str, Pair], executor: Executor, progress: Progress) -> Scored:
        """Score the slides, and keep the scores unless some slide cannot be compared.

        Raises:
            ConfigError: There is no such method.
            SlideError: No slide can be compared.
        """
        references = [StoredSlide(pair.truth) for pair in pairs.values()]
        methods = [*baselines(references, self.baselines, self.out), *self._trained()]
        stain = reference_stain(self.checkpoint, references)
        scored = score_pairs(pairs, methods, stain, self.out, executor, progress)
        if len(scored) == len(pairs):
            order = {name: list(each["scores"]) for name, each in scored.items()}
            kept = DirectionScores(key=self._key(pairs), product=None, slides=scored, methods=order)
            write_receipt(self._scores, kept)
        return scored

    @property
    def _scores(self) -> Path:
        return self.out / "scores.json"

    def _trained(self) -> list[Method]:
        return checkpoint_methods(self.checkpoint, self.modes, self.config.executor)

    def _key(self, pairs: Mapping[str, Pair]) -> str:
        """Return the fingerprint of what decides the scores."""
        slides = {
            name: [StoredSlide(folder).record.model_dump(mode="json") for folder in (pair.source, pair.truth)]
            for name, pair in pairs.items()
        }
        return fingerprint(
            {
                "version": __version__,
                "slides": slides,
                "checkpoint": file_digest(self.checkpoint) if self.checkpoint else None,
                "trained": [[method.device, method.normalize.model_dump(mode="json")] for method in self._trained()],
                "baselines": sorted(self.baselines),
            }
        )


def _in_order(kept: PairScores, methods: Sequence[str]) -> PairScores:
    return {**kept, "scores": {method: kept["scores"][method] for method in methods}}
