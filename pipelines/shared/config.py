"""The configuration of a run: which YAML file, which overrides. Each section's class lives beside its owner."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from pipelines.shared.formats import TABLES, Format, only_tables
from wsi_stain.core.errors import ConfigError
from wsi_stain.core.records import StrictRecord
from wsi_stain.core.yaml_file import read_yaml
from wsi_stain.executor import ExecutorConfig
from wsi_stain.formats.block_file import JpegConfig
from wsi_stain.normalizers.config import NormalizeConfig
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.training.config import TrainingConfig


class RunConfig(StrictRecord):
    """Configuration of `wsi-stain run`.

    Attributes:
        tiling: Reading slides, finding tissue, measuring stain.
        training: Pix2Pix on the reference's tiles.
        normalize: What becomes of the generated pixels.
        jpeg: How the pyramids' tiles are compressed; an OME-Zarr is lossless.
        formats: What is made of each slide: ome-tiff, ome-zarr, dicom, or its colour table alone as icc or cube, which
            make mode `auto` be `lut`; the report links to the first.
        executor: Where the work runs.
        stream: Read pixels from the slides' own files; no tiles of theirs are stored.
        group: Slides that share their stain: `listed`, those of one group of the slide list; `auto`, beside these the
            slides without a group that one scanner made and one folder holds.
        keep_tiles: Keep each slide's tiles in the store after its pyramid is written.
        accept_poor_checkpoint: Normalize even with a checkpoint that did worse in training than no normalization.
        portable_names: Name the outputs so that Windows and SMB take them too.
        space_wait_s: How long to wait for room on a full disk before the slides left are given up, seconds.
    """

    tiling: TilingConfig = TilingConfig()
    training: TrainingConfig = TrainingConfig()
    normalize: NormalizeConfig = NormalizeConfig()
    jpeg: JpegConfig = JpegConfig()
    formats: tuple[Format, ...] = Field(default=("ome-tiff",), min_length=1)
    executor: ExecutorConfig = ExecutorConfig()
    stream: bool = False
    group: Literal["listed", "auto"] = "listed"
    keep_tiles: bool = False
    accept_poor_checkpoint: bool = False
    portable_names: bool = False
    space_wait_s: float = Field(default=600.0, ge=0)

    @field_validator("formats")
    @classmethod
    def _drop_repeated_formats(cls, formats: tuple[Format, ...]) -> tuple[Format, ...]:
        return tuple(dict.fromkeys(formats))

    @model_validator(mode="after")
    def _check_tables(self) -> RunConfig:
        tables, normalize = [kind for kind in self.formats if kind in TABLES], self.normalize
        if not tables:
            return self
        if normalize.method != "pix2pix" or normalize.mode not in ("auto", "lut"):
            raise ValueError(
                f"format {tables[0]} is the colour table of mode lut, got {normalize.name}: use --mode lut"
            )
        if "icc" in tables and self.tiling.slide.icc == "srgb":
            raise ValueError(
                "format icc takes the place of the slides' own profile, which tiling.slide.icc srgb applies first: "
                "use --format cube, or icc keep"
            )
        return self

    @property
    def stores_tiles(self) -> bool:
        """True where slides' tiles are stored: a colour table needs few of them."""
        if self.stream or self.keep_tiles:
            return self.keep_tiles
        return self.tiling.codec == "jpeg" or not only_tables(self.formats)

    @model_validator(mode="after")
    def _check_stream(self) -> RunConfig:
        if self.stream and self.keep_tiles:
            raise ValueError("stream stores no tiles that keep_tiles could keep: choose one of them")
        if self.stream and self.tiling.codec == "jpeg":
            raise ValueError("stream stores no tiles, it shows the slide's own pixels: leave tiling.codec auto")
        return self


def configs_directory() -> Path:
    """Return the directory of the shipped YAML files: inside the wheel, or at the top of a checkout."""
    packaged = Path(__file__).parent.parent / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent.parent / "configs"


def shipped_configs() -> list[str]:
    """List the names that `--config` takes without a path."""
    return sorted(path.stem for path in configs_directory().glob("*.yaml"))


def gpu_count() -> int:
    """Count the GPUs that torch finds on this machine."""
    import torch  # not loaded before it is needed

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def choose_config(
    name: str | None, overrides: Mapping[str, Any], report: Callable[[str], None] = lambda text: None
) -> RunConfig:
    """Load the requested configuration; by default `wsi` on a GPU and `small` without one.

    Args:
        name: As for `load_config`, or None for the default.
        overrides: As for `load_config`.
        report: Is given which default was taken, and why.

    Raises:
        ConfigError: As `load_config`; or more GPUs are asked for than there are.
    """
    gpus = gpu_count()
    if name is None:
        name = "wsi" if gpus else "small"
        report(f"configuration: {name} ({'a GPU was found' if gpus else 'no GPU was found'})")
    config = load_config(name, overrides)
    missing = {"generator", "images"} - config.training.model_fields_set
    if name not in shipped_configs() and missing and not gpus:
        sizes = f"{config.training.images} images an epoch, {config.training.generator.ngf} channels"
        report(
            f"configuration: {name} leaves out training.{' and '.join(sorted(missing))}: to train takes the full size "
            f"({sizes}), days without a GPU; lay your keys into a copy of configs/small.yaml"
        )
    if config.executor.gpus is not None:
        if config.executor.gpus > gpus and not config.executor.is_remote:
            raise ConfigError(
                f"executor.gpus is {config.executor.gpus}, this machine shows {gpus}",
                "Give fewer (null takes those that there are), or look at CUDA_VISIBLE_DEVICES and wsi-stain doctor",
            )
        return config
    return config.model_copy(update={"executor": config.executor.model_copy(update={"gpus": gpus})})


def choose_cpu_config(name: str | None, overrides: Mapping[str, Any]) -> RunConfig:
    """Load the configuration of a command that runs no network: no GPU is looked for or used, and torch not loaded.

    Args:
        name: As for `load_config`; None for a shipped one, which all read and tile slides alike.
        overrides: As for `load_config`.

    Raises:
        ConfigError: As `load_config`.
    """
    config = load_config(name or "small", overrides)
    if config.executor.is_remote:
        return config
    return config.model_copy(update={"executor": config.executor.model_copy(update={"gpus": 0})})


def load_config(name: str, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Load a shipped configuration by name, or a YAML file, and lay overrides over it.

    Args:
        name: One of `shipped_configs()`, or the path of a YAML file.
        overrides: Nested sections with only the values that differ; None values are passed over.

    Raises:
        ConfigError: No such file, not YAML, an unknown key, or a value out of range.
    """
    path = configs_directory() / f"{name}.yaml" if name in shipped_configs() else Path(name)
    try:
        values = read_yaml(path, "Compare it with the files in configs/")
    except OSError as error:
        known = ", ".join(shipped_configs())
        raise ConfigError(
            f"The configuration {name} cannot be read: {error.strerror}", f"Give a path, or one of {known}"
        ) from error
    if not isinstance(values, dict | None):
        raise ConfigError(f"{path} holds no sections", "Compare it with the files in configs/")
    try:
        return RunConfig.model_validate(_merge_sections(values or {}, overrides or {}))
    except ValidationError as error:
        raise ConfigError(
            f"{path.name}: {_describe_first_error(error)}", "Correct that key; configs/ shows every key with a comment"
        ) from error


def _merge_sections(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        if isinstance(value, Mapping):
            section = merged.get(key) or {}
            merged[key] = _merge_sections(section, value) if isinstance(section, Mapping) else section
        elif value is not None:
            merged[key] = value
    return merged


def _describe_first_error(error: ValidationError) -> str:
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown key '{key}'"
    if isinstance(fault["input"], Mapping | StrictRecord):  # a rule between keys: its message names them
        return f"{key or 'the file'}: {fault['msg'].removeprefix('Value error, ')}"
    return f"'{key}' is {reprlib.repr(fault['input'])}: {fault['msg'].removeprefix('Value error, ')}"
