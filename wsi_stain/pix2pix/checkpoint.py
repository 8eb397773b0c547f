"""A trained generator in a file, with the contract under which it may be used. Pickled files are never opened.

The file is safetensors; its metadata holds one entry, the contract as JSON, with `sha256` over all else in it and the
weights. The same weights and contract give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as encode
from torch import Tensor

from wsi_stain.core.errors import CheckpointError
from wsi_stain.core.journal import atomic_write, canonical_json, file_digest
from wsi_stain.core.storage import check_regular
from wsi_stain.pix2pix.contract import FORMAT, Contract
from wsi_stain.pix2pix.generator import Generator
from wsi_stain.stain.colour_table import Table

CHECKPOINT_NAME = "checkpoint.safetensors"
"""What training calls the file."""

_METADATA_KEY = "wsi_stain"
_CORRECTION_KEY = "colour_correction"
_RETRAIN = "Train a new checkpoint with `wsi-stain train`"


@dataclass(frozen=True)
class Checkpoint:
    """A generator ready for use.

    Attributes:
        contract: What it was made for.
        generator: The network, in eval mode, without gradients.
        digest: SHA-256 of the file, hex.
        correction: Colour table that follows each slide's own, (N, N, N, 3), 0 to 255; None where there is none.
    """

    contract: Contract
    generator: Generator
    digest: str
    correction: Table | None = None

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> Checkpoint:
        """Open a checkpoint.

        Args:
            path: A file that `save` wrote.
            device: Where the weights go, as torch names it.

        Raises:
            CheckpointError: No such file, not a checkpoint, of another format, or damaged.
        """
        with _open(path, device) as file:
            stored, contract = _parse_contract(path, file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with torch.device("meta"):  # allocates nothing, whatever size the contract claims
            generator = Generator(contract.generator)
        _check_same(path, _expected_kinds(generator, contract), _kinds(tensors))
        _check_digest(path, stored, tensors)
        correction = tensors.pop(_CORRECTION_KEY, None)
        generator.load_state_dict(tensors, assign=True)
        table = None if correction is None else _as_table(path, correction)
        return cls(contract, generator.eval().requires_grad_(False), file_digest(path), table)


def read_contract(path: Path) -> Contract:
    """Read a checkpoint's contract from the file's header; no weights are read, but their shapes are checked.

    Raises:
        CheckpointError: As `Checkpoint.load` raises it.
    """
    with _open(path) as file:
        _, contract = _parse_contract(path, file.metadata() or {})
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    with torch.device("meta"):
        kinds = _expected_kinds(Generator(contract.generator), contract)
    _check_same(path, {name: tuple(shape) for name, (shape, _) in kinds.items()}, shapes)
    return contract


def save(path: Path, generator: Generator, contract: Contract, correction: Table | None = None) -> None:
    """Write a checkpoint atomically.

    Args:
        path: The file; it is replaced.
        generator: The trained network.
        contract: What it was made for; what it says of the correction is filled in.
        correction: Colour table that follows each slide's own, (N, N, N, 3), 0 to 255.

    Raises:
        OutputError: The file cannot be written.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous(memory_format=torch.contiguous_format)
        for name, tensor in sorted(generator.state_dict().items())
    }
    if correction is not None:
        tensors[_CORRECTION_KEY] = torch.from_numpy(np.ascontiguousarray(correction))
    size = 0 if correction is None else len(correction)
    fields = contract.model_copy(update={"correction_size": size}).model_dump(mode="json")
    text = canonical_json({**fields, "sha256": _digest(fields, tensors)}).decode()
    # One metadata entry only: safetensors does not keep the order of several.
    atomic_write(path, encode(tensors, metadata={_METADATA_KEY: text}))


@contextmanager
def _open(path: Path, device: str = "cpu") -> Iterator[Any]:
    """Open a safetensors file; its header is read, its tensors when they are asked for."""
    check_regular(path, CheckpointError)
    try:
        with safe_open(path, framework="pt", device=device) as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a checkpoint: expected a safetensors file ({error})",
            "Give the checkpoint.safetensors that `wsi-stain train` wrote; pickled .pt and .pth files are never opened",
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error})", "Check the path") from error


def _digest(fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Compute the SHA-256 of a contract's fields and of all weights in the order of their names, hex."""
    digest = hashlib.sha256(canonical_json(fields))
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check_digest(path: Path, stored: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights or a contract that are not those that were written; a file without a digest was made elsewhere."""
    fields = {name: value for name, value in stored.items() if name != "sha256"}
    expected, actual = str(stored.get("sha256", "")), _digest(fields, tensors)
    if expected not in ("", actual):
        raise CheckpointError(
            f"{path} is damaged: expected weights and contract of SHA-256 {expected[:12]}, found {actual[:12]}",
            f"Copy it again from where it was trained, or {_RETRAIN[0].lower()}{_RETRAIN[1:]}",
        )


def _parse_contract(path: Path, metadata: Mapping[str, str]) -> tuple[dict[str, Any], Contract]:
    """Return the contract's fields as they stand in the file, and the contract."""
    try:
        stored: dict[str, Any] = json.loads(metadata[_METADATA_KEY])
        actual = stored["format"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is a safetensors file without the contract of a wsi-stain checkpoint", _RETRAIN
        ) from error
    if actual != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {actual}, this version reads format {FORMAT}",
            f"{_RETRAIN}, or install the version of wsi-stain that wrote it",
        )
    try:
        return stored, Contract.model_validate({name: value for name, value in stored.items() if name != "sha256"})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "contract"
        raise CheckpointError(f"{path} has a damaged contract ({where}: {first['msg']})", _RETRAIN) from error


def _check_same(path: Path, expected: Mapping[str, Any], actual: Mapping[str, Any]) -> None:
    """Compare what is known of tensors, by name, with what the contract's generator has."""
    wrong = [name for name in sorted(expected.keys() | actual.keys()) if expected.get(name) != actual.get(name)]
    if wrong:
        raise CheckpointError(
            f"{path} does not hold the generator its contract describes: {len(wrong)} tensors differ, first {wrong[0]}",
            f"The file is damaged or was edited. {_RETRAIN}",
        )


def _as_table(path: Path, correction: Tensor) -> Table:
    """Return the colour correction; CheckpointError where it is of one entry, or has what are no colours."""
    if len(correction) < 2 or not ((correction >= 0) & (correction <= 255)).all():
        raise CheckpointError(
            f"{path} has a colour correction of {len(correction)} entries a side, expected 2 at least, of 0 to 255",
            _RETRAIN,
        )
    table: Table = correction.cpu().numpy()
    return table


def _expected_kinds(generator: Generator, contract: Contract) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Return shape and type of each tensor of a file with this contract."""
    size = contract.correction_size
    correction = {_CORRECTION_KEY: (torch.Size([size, size, size, 3]), torch.float32)} if size else {}
    return _kinds(generator.state_dict()) | correction


def _kinds(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
