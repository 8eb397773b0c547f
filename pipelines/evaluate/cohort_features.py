"""An encoder's features of a cohort's patches, method by method: made from tile stores, or read as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.evaluate.methods import baselines, checkpoint_methods
from pipelines.evaluate.shown_patches import ShownPatches, drop_empty, name_of
from pipelines.run_directory.usable_slides import find_usable_slides
from pipelines.shared.config import RunConfig
from pipelines.shared.device import own_device
from pipelines.shared.progress import Progress
from wsi_stain.core.errors import ConfigError
from wsi_stain.core.storage import StoragePath
from wsi_stain.evaluation.labelled import LABELS, NAMES, PIXELS
from wsi_stain.evaluation.methods import UNTOUCHED, Method
from wsi_stain.evaluation.robustness.encoders import Encode, EncoderConfig, load_encoder
from wsi_stain.evaluation.robustness.feature_tables import read_features
from wsi_stain.evaluation.robustness.patches import CohortPatches, Features, PatchFacts, gather_patches
from wsi_stain.executor import Executor
from wsi_stain.store import StoredSlide
from wsi_stain.store.artifact import load_artifact


@dataclass(frozen=True)
class CohortFeatures:
    """What is compared.

    Attributes:
        features: By method, the untouched first, (n, d).
        patches: What is known of the n patches.
        encoder: What made the features, in words.
        reference: The slides that classical methods were fitted to.
        is_whole: Whether no slide and no method was left out.
    """

    features: Mapping[str, Features]
    patches: CohortPatches
    encoder: str
    reference: Sequence[str] = ()
    is_whole: bool = True


@dataclass(frozen=True)
class Stores:
    """Tile stores whose patches are to be encoded.

    Attributes:
        paths: A store a centre, or one whose slides know their site.
        encoder: What makes features of patches.
        side: Side of the patches that it sees, px.
        most: Most patches of a slide.
        registered: Whether slides of one name show the same places in each centre.
        reference: Tile store that classical methods are fitted to; None takes the first centre.
        checkpoint: A trained generator to compare.
        modes: Modes to compare it in.
        baselines: Which classical methods to compare.
    """

    paths: Sequence[StoragePath]
    encoder: EncoderConfig
    side: int
    most: int
    registered: bool
    reference: StoragePath | None
    checkpoint: Path | None
    modes: Sequence[str]
    baselines: Sequence[str]

    def encode(self, out: Path, config: RunConfig, executor: Executor, progress: Progress) -> CohortFeatures:
        """Encode all patches as each method shows them; slides that a method cannot show are left out of all rows."""
        encode = load_encoder(self.encoder, own_device(config.executor))
        trained = checkpoint_methods(self.checkpoint, self.modes, config.executor)
        cohort = [_CohortSlide.of(slide, path) for path in self.paths for slide in find_usable_slides(path).slides]
        references = self._find_references(cohort)
        methods: list[Method | None] = [None, *baselines(references, self.baselines, out), *trained]
        files: dict[str, dict[_CohortSlide, Path]] = {name_of(method): {} for method in methods}
        for path in self.paths:
            folder = out / "work" / "patches" / path.name
            shown = ShownPatches(folder, self.side, self.most, self.registered, executor, progress)
            own = {each.slide.slide_id: each for each in cohort if each.store == path.name}
            for method in methods:
                done = shown.show([each.slide for each in own.values()], method)
                files[name_of(method)] |= {own[slide_id]: file for slide_id, file in done.items()}
        rows = drop_empty(files, progress)
        usable = [each for each in cohort if all(each in by_slide for by_slide in rows.values())]
        if not usable:
            raise ConfigError(
                f"None of the {len(cohort)} slides is shown by all of {', '.join(rows)}",
                "See the reasons above; slides need labels, or --registered; compare fewer methods",
            )
        features, facts = dict[str, Features](), list[PatchFacts]()
        for name, by_slide in rows.items():
            features[name] = np.concatenate([_encode_file(encode, by_slide[each]) for each in usable])
        for each in usable:
            facts += each.facts(rows[UNTOUCHED][each], self.registered)
        whole = len(usable) == len(cohort) and len(rows) == len(files)
        names = [slide.record.relative for slide in references]
        return CohortFeatures(features, gather_patches(facts), self.encoder.describe(), names, whole)

    def _find_references(self, cohort: Sequence[_CohortSlide]) -> list[StoredSlide]:
        if self.reference is not None:
            return find_usable_slides(self.reference).slides
        return [each.slide for each in cohort if each.centre == cohort[0].centre]


@dataclass(frozen=True)
class Tables:
    """Ready features.

    Attributes:
        paths: A file or directory of each row, by its name; the untouched first.
        listed: What is known of the slides or patches; None where the files say it.
    """

    paths: Mapping[str, Path]
    listed: Path | None

    def read(self) -> CohortFeatures:
        """Read all rows.

        Raises:
            ConfigError: They are not of the same patches.
        """
        tables = {name: read_features(path, self.listed) for name, path in self.paths.items()}
        first_name, first = next(iter(tables.items()))
        for name, table in tables.items():
            if list(table.facts) != list(first.facts):
                raise ConfigError(
                    f"{name} has {len(table.facts)} patches, {first_name} {len(first.facts)}, or they differ",
                    "Extract the features of the same patches in the same order",
                )
        features = {name: table.features for name, table in tables.items()}
        files = ", ".join(path.name for path in self.paths.values())
        return CohortFeatures(features, gather_patches(first.facts), f"ready features: {files}")


def choose_source(stores: Stores, features: Sequence[str], listed: Path | None) -> Stores | Tables:
    """Return what a command line asks for: stores, or ready features, each `NAME=PATH`.

    Raises:
        ConfigError: It asks for both or neither, or a path does not exist.
    """
    if bool(stores.paths) == bool(features):
        raise ConfigError("Patches come from tile stores, or their features are ready", "Give STORE, or --features")
    if not features:
        return stores
    paths = {name: Path(path).absolute() for name, _, path in (each.partition("=") for each in features)}
    missing = [name for name, path in paths.items() if not path.exists()]
    if missing or len(paths) < len(features):
        raise ConfigError(
            f"--features {missing[0] if missing else features[-1]} names no file, or a name twice",
            "Give --features untouched=FILE --features macenko=FILE",
        )
    return Tables(paths, listed)


@dataclass(frozen=True, eq=False)
class _CohortSlide:
    """A slide of a cohort.

    Attributes:
        slide: The slide.
        store: Name of its store.
        centre: Where it was stained and scanned: its site, else its group, else its store's name.
    """

    slide: StoredSlide
    store: str
    centre: str

    @classmethod
    def of(cls, slide: StoredSlide, path: StoragePath) -> _CohortSlide:
        centre = slide.record.site or slide.record.group or path.name.removesuffix(".zarr")
        return cls(slide, path.name, centre)

    def facts(self, file: Path, registered: bool) -> list[PatchFacts]:
        """Return what is known of its patches. Names of slides and patients count within their store, unless
        slides of one name show the same."""
        record, patches = self.slide.record, load_artifact(file)
        slide = record.relative if registered else f"{self.store}/{record.relative}"
        patient = record.patient if registered or not record.patient else f"{self.store}/{record.patient}"
        return [
            PatchFacts(slide, self.centre, str(label), patient or "", f"{slide}/{name}" if registered else "")
            for label, name in zip(patches[LABELS], patches[NAMES], strict=True)
        ]


def _encode_file(encode: Encode, file: Path) -> Features:
    return encode(load_artifact(file)[PIXELS])
