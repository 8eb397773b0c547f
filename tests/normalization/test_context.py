"""What decides a slide's outputs: keys change with it, and with nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from pipelines.normalization.context import RunContext
from pipelines.normalization.target import NormalizationTarget
from pipelines.run_directory.workspace import Workspace
from pipelines.shared.config import RunConfig
from pipelines.shared.space import DiskSpace
from tests.support.made_checkpoint import STATISTICS, write_untrained


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained(tmp_path_factory.mktemp("checkpoint") / "c.safetensors")


def context_of(checkpoint: Path, sections: Mapping[str, Any] | None = None, **fields: Any) -> RunContext:
    config = RunConfig.model_validate({"executor": {"gpus": 0}, **(sections or {})})
    out = checkpoint.parent
    return RunContext(
        workspace=Workspace(out),
        target=NormalizationTarget.load(checkpoint),
        config=config,
        stems={"a": PurePosixPath("slides/x/a")},
        check_lease=lambda: None,
        report=print,
        space=DiskSpace(out, 0, 0, print),
        **fields,
    )


@pytest.mark.parametrize(
    "sections", [{"normalize": {"mode": "lut"}}, {"normalize": {"stride_px": 512}}, {"jpeg": {"quality": 80}}], ids=str
)
def test_what_changes_bytes_changes_the_key(checkpoint: Path, sections: Mapping[str, Any]) -> None:
    assert context_of(checkpoint, sections).key("a", "tiles") != context_of(checkpoint).key("a", "tiles")


@pytest.mark.parametrize(
    "sections",
    [{"normalize": {"threads": 3}}, {"normalize": {"lut_outside": 0.5}}, {"executor": {"gpus": 0, "workers": 3}}],
    ids=str,
)
def test_what_changes_no_byte_does_not(checkpoint: Path, sections: Mapping[str, Any]) -> None:
    assert context_of(checkpoint, sections).key("a", "tiles") == context_of(checkpoint).key("a", "tiles")


def test_a_group_s_stain_counts_for_its_slides_alone(checkpoint: Path) -> None:
    alone, grouped = context_of(checkpoint), context_of(checkpoint, group_stains={"a": STATISTICS})
    assert grouped.key("a", "tiles") != alone.key("a", "tiles")
    assert grouped.key("b", "tiles") == alone.key("b", "tiles")


def test_other_tiles_and_another_checkpoint_change_the_key(checkpoint: Path, tmp_path: Path) -> None:
    context, other = context_of(checkpoint), context_of(write_untrained(tmp_path / "other.safetensors", gain=2))
    assert len({context.key("a", "tiles"), context.key("a", "other tiles"), other.key("a", "tiles")}) == 3


def test_ingredients_name_what_differs(checkpoint: Path) -> None:
    one, other = (
        context_of(checkpoint, {"normalize": {"mode": mode}}).ingredients("a", {"file": "f", "settings": "s"})
        for mode in ("lut", "guard")
    )
    assert one["file"] == "f" and one["tiling"] == "s"
    assert {name for name in one if one[name] != other[name]} == {"normalize"}


def test_outputs_lie_where_the_slide_s_name_says_and_have_its_key(checkpoint: Path) -> None:
    context = context_of(checkpoint, {"formats": ["ome-tiff", "ome-zarr"]})
    outputs = context.outputs("a", "tiles")
    assert outputs.names == ["slides/x/a.ome.tif", "slides/x/a.ome.zarr"]
    assert outputs.folder == context.workspace.slide("a") and outputs.key == context.key("a", "tiles")
