"""The choice of a cohort's reference is kept as long as it holds."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.shared.auto_reference import choose_auto_reference
from pipelines.shared.progress import Progress
from tests.support.scanned_cohort import write_cohort
from wsi_stain.executor import ExecutorConfig, open_executor
from wsi_stain.slides.listing.find import find_slides
from wsi_stain.tiling.config import TilingConfig


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_cohort(tmp_path_factory.mktemp("cohort") / "lab")


def choose(slides: list[Path], kept: Path, split: dict[str, str] | None = None) -> tuple[str, str]:
    """Choose among slides; returns the choice and what was said."""
    said = io.StringIO()
    sources = [
        source.model_copy(update={"split": (split or {}).get(source.relative)}) for source in find_slides(slides)
    ]
    with Progress(Console(file=said, width=400)) as progress, open_executor(ExecutorConfig(workers=0)) as executor:
        source, choice = choose_auto_reference(executor, sources, TilingConfig(), kept, progress)
    assert source.relative == choice.chosen.slide
    return source.relative, said.getvalue()


def test_the_first_choice_stays_while_its_slide_is_there(slides: list[Path], tmp_path: Path) -> None:
    pale, middle, dark = slides
    kept = tmp_path / "work" / "reference_choice.json"
    first, said = choose(slides, kept)
    assert first == "middle.svs"
    assert "reference: middle.svs lies nearest to the other 2 of 3 fit slides" in said
    again, said = choose([middle, dark], kept)
    assert (again, "as an earlier run chose" in said) == ("middle.svs", True)
    other, said = choose([pale, middle], kept, {"middle.svs": "test"})
    assert other == "pale.svs", "what is set aside for testing is not learnt from"
    assert "pale.svs is the only one of 1 slides that is fit for it" in said and "earlier run" not in said
