"""The methods that an evaluation compares: the classical ones, fitted to a reference, and the modes of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from pipelines.normalization.target import NormalizationTarget
from pipelines.shared.device import tasks_device
from wsi_stain.core.errors import ConfigError
from wsi_stain.evaluation.methods import Method
from wsi_stain.executor import ExecutorConfig
from wsi_stain.normalizers.classical_reference import measure_classical_reference
from wsi_stain.normalizers.config import ClassicalMethod, NormalizeConfig
from wsi_stain.store import StoredSlide


def require_extras() -> None:
    """Check before any work that what draws and learns is installed; raises ConfigError where it is not."""
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"`evaluate` needs {error.name}, which is not installed", "pip install 'wsi-stain[evaluate]'"
        ) from error


def baselines(references: Sequence[StoredSlide], names: Sequence[str], out: Path) -> list[Method]:
    """Fit classical methods to the reference's slides, by default all three; none where there are no slides.

    Raises:
        ConfigError: There is no such method.
    """
    known: tuple[ClassicalMethod, ...] = get_args(ClassicalMethod)
    if unknown := set(names) - set(known):
        raise ConfigError(f"There is no --baseline {min(unknown)}", f"Give {', '.join(known)}")
    methods: list[Method] = []
    for name in known:
        if not references or (names and name not in names):
            continue
        target = NormalizationTarget.of_classical(
            measure_classical_reference(name, references), out / "work" / f"{name}.json"
        )
        methods.append(Method(name, NormalizeConfig(method=name), target.path))
    return methods


def checkpoint_methods(checkpoint: Path | None, modes: Sequence[str], executor: ExecutorConfig) -> list[Method]:
    """Return a checkpoint as a method in each of the requested modes; by default in the one that a run would take.

    Raises:
        CheckpointError: It is damaged, or none.
        ConfigError: There is no such mode.
    """
    if checkpoint is None:
        return []
    target = NormalizationTarget.load(checkpoint)
    device = tasks_device(executor)
    wanted = [_mode_config(mode) for mode in modes or ["auto"]]
    chosen = [config.resolve_auto(device) for config in wanted]
    return [Method(f"wsi-stain {config.mode}", config, target.path, device) for config in chosen]


def _mode_config(mode: str) -> NormalizeConfig:
    try:
        return NormalizeConfig.model_validate({"mode": mode})
    except ValidationError as error:
        raise ConfigError(f"There is no --mode {mode}", "Give generator, guard, lut or auto") from error
