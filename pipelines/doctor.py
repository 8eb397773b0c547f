"""What this machine can do: versions, OpenSlide, codecs, extras, GPU, memory, disk. A problem comes with its cure."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console

from pipelines.shared.messages import print_line
from pipelines.shared.tables import Column, print_table
from wsi_stain.core.lease import lease_means
from wsi_stain.core.storage import existing_parent

_GIB = 2**30
_PACKAGES = (
    "wsi-stain",
    "torch",
    "torchvision",
    "openslide-python",
    "zarr",
    "dask",
    "numpy",
    "scikit-image",
    "tifffile",
)
EXTRAS = {
    "dicom": ("--format dicom, and DICOM slides that OpenSlide refuses", ("wsidicomizer",)),
    "evaluate": ("wsi-stain evaluate", ("matplotlib", "scikit-learn")),
    "features": ("evaluate robustness: HDF5, ONNX", ("h5py", "onnxruntime")),
    "fastslide": ("slides as VSI, QPTIFF, iSyntax, CZI", ("fastslide",)),
    "onnx": ("wsi-stain export", ("onnx", "onnxruntime", "onnxscript")),
    "pcam": ("wsi-stain import pcam", ("h5py",)),
    "s3": ("tile stores and OME-Zarr slides on s3://", ("obstore",)),
    "tensorboard": ("training.tensorboard", ("tensorboard",)),
}
"""Extras by the name that pip takes: what needs them, and the packages that they bring."""


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        subject: What was checked.
        result: Its state.
        cure: What to do about it; empty when all is well.
    """

    subject: str
    result: str
    cure: str = ""


def plan(directory: Path) -> list[Finding]:
    """Run all checks; nothing that stays is written."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _versions,
        _openslide,
        _codecs,
        _extras,
        _torch,
        _machine,
        lambda: _disk(directory),
    )
    return [finding for check in checks for finding in _run_check(check)]


def run(directory: Path, console: Console) -> int:
    """Print the diagnosis.

    Returns:
        0 when nothing needs a cure, else 1.
    """
    findings = plan(directory)
    rows = [[f"{'x ' if finding.cure else 'ok'} {finding.subject}", finding.result] for finding in findings]
    print_table([Column("   subject"), Column("found")], rows, console)
    for finding in findings:
        if finding.cure:
            print_line(console, f"{finding.subject}: {finding.result}. {finding.cure}")
    return 1 if any(finding.cure for finding in findings) else 0


def _run_check(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Run one check; a library that fails to load is itself a finding."""
    try:
        return list(check())
    except Exception as error:
        cure = "Install wsi-stain again in a fresh environment: pip install wsi-stain"
        return [Finding("import", f"{type(error).__name__}: {error}", cure)]


def _versions() -> Iterator[Finding]:
    yield Finding("Python", platform.python_version())
    for package in _PACKAGES:
        yield Finding(package, importlib.metadata.version(package))


def _openslide() -> Iterator[Finding]:
    import openslide

    yield Finding("OpenSlide library", str(openslide.__library_version__))


def _codecs() -> Iterator[Finding]:
    import imagecodecs

    for name in ("JPEG8", "PNG", "LZ4"):
        available = bool(getattr(imagecodecs, name).available)
        cure = "" if available else "Install imagecodecs from a wheel: pip install --force-reinstall imagecodecs"
        yield Finding(f"codec {name}", "yes" if available else "no", cure)


def _extras() -> Iterator[Finding]:
    for name, (purpose, packages) in EXTRAS.items():
        state = (
            "installed, for" if all(map(_is_installed, packages)) else f"pip install 'wsi-stain[{name}]' if you want"
        )
        yield Finding(f"extra {name}", f"{state} {purpose}")
    state = "installed" if _is_installed("bokeh") else "pip install bokeh if you want it"
    yield Finding("Dask's dashboard", f"{state}; its address: wsi-stain --debug COMMAND")


def _is_installed(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


def _torch() -> Iterator[Finding]:
    import torch
    import torchvision  # noqa: F401  (a build that does not match torch fails here)

    if not torch.cuda.is_available():
        built = torch.version.cuda or "none"
        yield Finding("GPU", f"none (torch built for CUDA {built}); small.yaml and the colour table are used on CPUs")
        return
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        yield Finding(f"GPU {index}", f"{device.name}, {device.total_memory / _GIB:.0f} GiB")


def _machine() -> Iterator[Finding]:
    yield Finding("CPU cores", f"{len(os.sched_getaffinity(0))}")
    free = psutil.virtual_memory().available / _GIB
    yield Finding("memory available", f"{free:.1f} GiB", "" if free >= 4 else "Free 4 GiB, or use fewer --workers")


def _disk(directory: Path) -> Iterator[Finding]:
    existing = existing_parent(directory)
    free = shutil.disk_usage(existing).free / _GIB
    yield Finding(
        f"disk at {directory}", f"{free:.0f} GiB free", "" if free >= 20 else "Free 20 GiB or choose another directory"
    )
    writable = os.access(existing, os.W_OK)
    yield Finding(
        f"writing at {directory}", "yes" if writable else "no", "" if writable else "Choose a directory of yours"
    )
    if writable:
        yield Finding(f"lease at {directory}", f"by {lease_means(existing)}")
