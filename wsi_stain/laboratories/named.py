"""Laboratories by name, of the shipped file or of the user's own; a file holds one or more. Knows no slides."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from wsi_stain.core.arrays import Rgb, to_rgb
from wsi_stain.core.errors import ConfigError
from wsi_stain.core.records import StrictRecord
from wsi_stain.core.yaml_file import read_yaml
from wsi_stain.laboratories.perturbation import Perturbation, Tilt

_SHIPPED = Path(__file__).parent / "laboratories.yaml"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
_REMEDY = "Compare it with the comments in wsi_stain/laboratories/laboratories.yaml"


class ScannerTable(StrictRecord):
    """Colour table measured between two scanners.

    Attributes:
        values: (N, N, N, 3), RGB 0 to 255 of the source to RGB of the target, as nested lists in C order.
        white: Glass of the source, RGB.
        wanted_white: Glass of the target, RGB.
    """

    values: list[list[list[Rgb]]]
    white: Rgb
    wanted_white: Rgb

    @property
    def array(self) -> NDArray[np.float32]:
        """The table, (N, N, N, 3)."""
        return np.asarray(self.values, np.float32)


class NamedLaboratory(StrictRecord):
    """A laboratory by its numbers; the defaults change nothing. The shipped file says what each means.

    Attributes:
        name: Safe as the name of a folder.
        summary: What it stands for.
        hematoxylin_gain: Factor on hematoxylin.
        eosin_gain: Factor on eosin.
        hematoxylin_tilt: Rotation of the hematoxylin vector, degrees.
        eosin_tilt: Rotation of the eosin vector, degrees.
        gamma: Exponent on the transmitted light of each channel.
        tone: Lift of the mid-tones, and S-shape; see `Perturbation`.
        white: Its glass, RGB; None leaves each slide its own.
        table: Instead of all these, a colour table measured between two scanners.
    """

    name: str = Field(pattern=_NAME)
    summary: str = ""
    hematoxylin_gain: float = Field(default=1.0, gt=0, le=10)
    eosin_gain: float = Field(default=1.0, gt=0, le=10)
    hematoxylin_tilt: Tilt = (0.0, 0.0)
    eosin_tilt: Tilt = (0.0, 0.0)
    gamma: Rgb = (1.0, 1.0, 1.0)
    tone: tuple[float, float] = (0.0, 0.0)
    white: Rgb | None = None
    table: ScannerTable | None = None

    @model_validator(mode="after")
    def _check_ranges(self) -> NamedLaboratory:
        others = self.model_fields_set - {"name", "summary", "table"}
        if self.table is not None and others:
            raise ValueError(f"a table stands for all of it: leave out {', '.join(sorted(others))}")
        if min(self.gamma) <= 0 or max(map(abs, self.tone)) > 1:
            raise ValueError("gamma must be above 0, and tone lie between -1 and 1")
        if self.white is not None and not all(100 <= value <= 255 for value in self.white):
            raise ValueError("white must lie between 100 and 255")
        return self

    def perturbation(self, white: Rgb) -> Perturbation:
        """Return what it does to a slide whose glass is `white`, RGB."""
        target = self.white or white
        balance = to_rgb((wanted + 1) / (own + 1) for wanted, own in zip(target, white, strict=True))
        return Perturbation(
            h_gain=self.hematoxylin_gain,
            e_gain=self.eosin_gain,
            h_tilt=self.hematoxylin_tilt,
            e_tilt=self.eosin_tilt,
            gamma=self.gamma,
            tone=self.tone,
            balance=balance,
        )


def load_laboratories(name: str) -> list[NamedLaboratory]:
    """Load the shipped laboratory of a name, or all of a YAML file.

    Raises:
        ConfigError: There is no such name or file, or it is none of laboratories.
    """
    shipped = _read_file(_SHIPPED)
    found = [laboratory for laboratory in shipped if laboratory.name == name]
    if found:
        return found
    path = Path(name)
    if path.suffix.lower() not in (".yaml", ".yml"):
        known = ", ".join(laboratory.name for laboratory in shipped)
        raise ConfigError(f"There is no laboratory {name}", f"Give a YAML file, or one of {known}")
    return _read_file(path)


def shipped_laboratories() -> list[NamedLaboratory]:
    """Load the laboratories that come with the package."""
    return _read_file(_SHIPPED)


def _read_file(path: Path) -> list[NamedLaboratory]:
    try:
        entries = read_yaml(path, _REMEDY)["laboratories"]
        return [_read_entry(path, name, dict(entry or {})) for name, entry in entries.items()]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", "Check the path and its permissions") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path} has no section `laboratories` with an entry each", _REMEDY) from error


def _read_entry(path: Path, name: str, entry: dict[str, Any]) -> NamedLaboratory:
    if "table" in entry:
        entry["table"] = _read_table(path.parent / str(entry["table"]))
    try:
        return NamedLaboratory(name=name, **entry)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in (name, *fault["loc"]))
        raise ConfigError(f"{path}: {where}: {fault['msg'].removeprefix('Value error, ')}", _REMEDY) from error


def _read_table(path: Path) -> ScannerTable:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            table, white, wanted = (np.asarray(arrays[name], float) for name in ("table", "white", "wanted_white"))
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise ConfigError(f"{path} is no colour table of a scanner: {error}", _REMEDY) from error
    sides = set(table.shape[:-1])
    if table.ndim != 4 or table.shape[-1] != 3 or len(sides) != 1 or not 2 <= min(sides) <= 65:
        raise ConfigError(f"{path}: the table has the shape {table.shape}, expected (N, N, N, 3), N up to 65", _REMEDY)
    return ScannerTable(values=table.tolist(), white=to_rgb(white.ravel()), wanted_white=to_rgb(wanted.ravel()))
