"""The patches of stored slides as each method shows them, in files, for a classifier or an encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipelines.evaluate.tasks import receipts_of, scoring_pool
from pipelines.shared.progress import Progress
from wsi_stain.core.errors import ConfigError
from wsi_stain.evaluation.labelled import LabelledTask, extract_labelled
from wsi_stain.evaluation.methods import UNTOUCHED, Method
from wsi_stain.executor import WHOLE_SLIDE, Executor, Task
from wsi_stain.store import StoredSlide

Key = TypeVar("Key")


@dataclass(frozen=True)
class ShownPatches:
    """Writer of patches.

    Attributes:
        folder: Where their files go.
        side: Side of the squares that they are brought to, px.
        most: Most patches of a slide.
        unlabelled: Whether patches without a label are wanted, too.
        executor: Where the work runs.
        progress: Where it is shown.
    """

    folder: Path
    side: int
    most: int
    unlabelled: bool
    executor: Executor
    progress: Progress

    def show(self, slides: Sequence[StoredSlide], method: Method | None) -> dict[str, Path]:
        """Write the patches of each slide as a method shows them.

        Returns:
            The files by slide id; slides that fail are reported and left out.
        """
        folder = self.folder / name_of(method).replace(" ", "-")
        tasks, ids, pool = {}, {}, scoring_pool([method] if method else [])
        for slide in slides:
            name = f"{slide.slide_id} ({name_of(method)})"
            task = LabelledTask(
                stored=slide.path,
                method=method,
                side=self.side,
                most=self.most,
                out=folder / f"{slide.slide_id}.npz",
                unlabelled=self.unlabelled,
            )
            tasks[name], ids[name] = Task(extract_labelled, task, "show", WHOLE_SLIDE, pool), slide.slide_id
        done = receipts_of(self.executor, tasks, self.progress)
        return {ids[name]: folder / f"{ids[name]}.npz" for name in done}


def drop_empty(files: Mapping[str, Mapping[Key, Path]], progress: Progress) -> dict[str, Mapping[Key, Path]]:
    """Keep the methods that show any slide, and the untouched one; a checkpoint of another resolution shows none."""
    for name, by_slide in files.items():
        if not by_slide and name != UNTOUCHED:
            progress.report(f"{name}: no row, since it shows none of the slides")
    return {name: by_slide for name, by_slide in files.items() if by_slide or name == UNTOUCHED}


def keep_common_slides(slides: Sequence[StoredSlide], rows: Mapping[str, Mapping[str, Path]]) -> list[StoredSlide]:
    """Return the slides that every method shows, so that all are judged on the same ones.

    Raises:
        ConfigError: Each of those that have labelled patches is missing from some method.
    """
    common = [slide for slide in slides if all(slide.slide_id in by_slide for by_slide in rows.values())]
    if rows[UNTOUCHED] and not common:
        raise ConfigError(
            f"None of the {len(slides)} slides to test on is shown by all of {', '.join(rows)}",
            "See the reasons above; compare fewer methods: --baseline, --mode, or no --checkpoint",
        )
    return common


def name_of(method: Method | None) -> str:
    """Return the name of a method's row."""
    return method.name if method else UNTOUCHED


def group_of(slide: StoredSlide) -> str:
    """Return whose a slide is: the patient's, or where none is known its own."""
    return slide.record.patient or slide.slide_id
