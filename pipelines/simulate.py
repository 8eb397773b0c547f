"""The `simulate` command: a cohort as named laboratories would show it, a run directory a laboratory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipelines import run as run_pipeline
from pipelines.shared.config import RunConfig
from pipelines.shared.messages import print_line
from wsi_stain.core.errors import ConfigError
from wsi_stain.laboratories.named import NamedLaboratory, load_laboratories


@dataclass(frozen=True)
class Request:
    """Arguments of `wsi-stain simulate`.

    Attributes:
        slides: The slides.
        laboratories: Names of shipped laboratories, and YAML files, all of whose laboratories are meant.
        out: The output directory; each laboratory has a folder there, as a run leaves it.
        config: How slides are read and pyramids written, and where the work runs.
        masks: Directory of the user's own masks.
    """

    slides: Sequence[Path]
    laboratories: Sequence[str]
    out: Path
    config: RunConfig
    masks: Path | None = None


def show_plan(request: Request, console: Console) -> int:
    """Print the laboratories, and the plan that is the same for each; 3 when some slide cannot be used."""
    laboratories = find_laboratories(request)
    for laboratory in laboratories:
        print_line(console, f"{laboratory.name}: {laboratory.summary}")
    return run_pipeline.show_plan(_run_request(request, laboratories[0]), console)


def run(request: Request, console: Console) -> int:
    """Make the pyramids of one laboratory after the other.

    Returns:
        0, or 3 when some slides failed.
    """
    code = 0
    for laboratory in find_laboratories(request):
        print_line(console, f"{laboratory.name}: {laboratory.summary}")
        code = max(code, run_pipeline.run(_run_request(request, laboratory), console))
    return code


def find_laboratories(request: Request) -> list[NamedLaboratory]:
    """Load the laboratories, each once.

    Raises:
        ConfigError: There is no such name or file, or two laboratories of one name differ.
    """
    found: dict[str, NamedLaboratory] = {}
    for laboratory in _load_all(request.laboratories):
        if found.setdefault(laboratory.name, laboratory) != laboratory:
            raise ConfigError(f"Two laboratories have the name {laboratory.name}", "Rename one of them")
    if not found:
        raise ConfigError("There is no laboratory to show the slides as", "Give --as NAME, or --as FILE.yaml")
    return list(found.values())


def _load_all(names: Sequence[str]) -> Iterator[NamedLaboratory]:
    for name in names:
        yield from load_laboratories(name)


def _run_request(request: Request, laboratory: NamedLaboratory) -> run_pipeline.Request:
    config = request.config.model_copy(
        update={"stream": True, "normalize": request.config.normalize.model_copy(update={"method": "simulated"})}
    )
    out = request.out / laboratory.name
    return run_pipeline.Request(request.slides, [], None, out, config, request.masks, laboratory=laboratory)
