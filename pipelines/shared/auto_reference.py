"""`--reference auto`: the cohort's own medoid, chosen once for an output directory and kept there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipelines.shared.inspection import SlideInspection, run_inspections
from pipelines.shared.progress import Progress
from wsi_stain.cohort.reference import ReferenceChoice, SlideFitness, choose_reference
from wsi_stain.core.geometry import TILE
from wsi_stain.core.journal import read_json, write_json
from wsi_stain.core.records import StrictRecord
from wsi_stain.executor import OPENING, Executor, Task, run_flows, single_task
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.inspect import InspectTask, identify_slide


class _KeptChoice(StrictRecord):
    """A choice as it is kept: the key of the chosen slide's tiles, and the choice."""

    key: str
    choice: ReferenceChoice


def choose_auto_reference(
    executor: Executor, sources: Sequence[SlideSource], config: TilingConfig, kept: Path, progress: Progress
) -> tuple[SlideSource, ReferenceChoice]:
    """Choose the cohort's reference, or keep what an earlier run chose.

    The first choice stays while its slide is in the cohort and gives the same tiles: a cohort that grows by a slide
    is not brought to another reference.

    Args:
        executor: Where slides are inspected.
        sources: The slides; those of the split `test` are set aside and never chosen.
        config: How they are tiled.
        kept: File of the choice.
        progress: Where choice and reason are shown.

    Returns:
        The chosen slide, and the choice.

    Raises:
        ConfigError: No slide is fit for it.
    """
    allowed = {source.slide_id: source for source in sources if source.split != "test"}
    if (earlier := _read_choice(executor, kept, allowed, config)) is not None:
        choice, origin = earlier, f"as an earlier run chose; remove {kept.name} in OUT/work to choose anew"
    else:
        tasks = [InspectTask(source, config, stain=True) for source in allowed.values()]
        inspections = run_inspections(executor, tasks, progress)
        choice, origin = choose_of_inspected(inspections), ""
        keys = {each.source.slide_id: each.facts["key"] for each in inspections if each.facts}
        write_json(kept, _KeptChoice(key=keys[choice.chosen.slide_id], choice=choice).model_dump(mode="json"))
    progress.report(f"reference: {choice.reason}{f' ({origin})' if origin else ''}")
    return allowed[choice.chosen.slide_id], choice


def choose_of_inspected(inspections: Sequence[SlideInspection]) -> ReferenceChoice:
    """Choose the reference among slides that were inspected with their stain.

    Raises:
        ConfigError: None is fit for it.
    """
    return choose_reference([_describe_fitness(inspection) for inspection in inspections])


def _describe_fitness(inspection: SlideInspection) -> SlideFitness:
    source, facts = inspection.source, inspection.facts
    problem = inspection.reason.removeprefix(f"{source.relative}: ")
    if facts is None:
        return SlideFitness(source.slide_id, source.relative, None, 0, 0.0, problem)
    tissue_px = facts["tissue"] * facts["size"][0] * facts["size"][1]
    return SlideFitness(
        slide_id=source.slide_id,
        slide=source.relative,
        stain=inspection.stain,
        tiles=round(tissue_px / TILE**2),
        ink=facts["ink"],
        problem=problem or facts["damage"] or ("" if facts["tiles"] else "it has no tissue"),
    )


def _read_choice(
    executor: Executor, path: Path, allowed: dict[str, SlideSource], config: TilingConfig
) -> ReferenceChoice | None:
    """Read an earlier choice; None where there is none that still holds."""
    content: Any = read_json(path)
    try:
        kept = _KeptChoice.model_validate(content)
    except ValidationError:
        return None
    source = allowed.get(kept.choice.chosen.slide_id)
    if source is None:
        return None
    flow = single_task(Task(identify_slide, InspectTask(source, config), "identify", OPENING))
    (result,) = run_flows(executor, {source.slide_id: flow})
    return kept.choice if result.error is None and result.value["key"] == kept.key else None
