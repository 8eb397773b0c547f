"""Collect what a machine with a GPU lacks, for one that can reach no network: `run.py` beside this takes it from there.

    python benchmarks/gpu/prepare.py [--slide SLIDE] [--python 3.12]

The folder `carried` beside this file gets wheels for Linux on x86-64 and, where it is given, a slide; without one only
made-up slides are used. Torch and what comes with it in the usual images (numpy, scipy, pillow, ...) are not among
them, and a package that is there is never replaced. Of imagecodecs only the codecs that wsi-stain calls are kept, and
numcodecs loses its debugging symbols: both together would be 36 MB. All of it must stay below 64 MiB.

Needs `strip` (binutils). Downloads come from the package index that pip is configured for.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CARRIED = Path(__file__).parent / "carried"

LIMIT = 64 * 2**20
"""Bytes of the whole folder, at most."""

PACKAGES = (
    *("annotated-types", "array-api-compat", "dask", "distributed", "donfig", "google-crc32c", "imagecodecs", "locket"),
    *("cffi", "cryptography", "pycparser"),  # which Dask wants for certificates of its own
    *("numcodecs", "openslide-bin", "openslide-python", "partd", "pydantic", "pydicom", "simplejpeg", "tblib"),
    *("tornado", "typing-inspection", "zarr", "zict", "hypothesis", "sortedcontainers"),
    *("click", "cloudpickle", "fsspec", "iniconfig", "markdown-it-py", "mdurl", "msgpack", "packaging", "pluggy"),
    *("psutil", "pygments", "pytest", "pyyaml", "rich", "safetensors", "shellingham", "tifffile", "toolz", "typer"),
)
"""Beside these the core of pydantic in the one version that fits. Those of the last two lines are usually there."""

_PLATFORMS = ("2_28", "2_27", "2_17", "2_5")
_CODECS = re.compile(
    r"imagecodecs/(_imcd|_shared|_shared_cython|_jpeg8|_qoi)\.|imagecodecs/[^/]*\.py$"
    r"|imagecodecs-[^/]*\.dist-info/|imagecodecs\.libs/libjpeg"
)


def main() -> None:
    """Download, trim, and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, help="a slide to carry along")
    parser.add_argument("--python", default="3.12", help="version of Python there")
    options = parser.parse_args()
    shutil.rmtree(CARRIED, ignore_errors=True)
    wheels = CARRIED / "wheels"
    wheels.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        for wheel in download(Path(folder), options.python):
            trim_wheel(wheel, wheels / wheel.name)
    if options.slide:
        shutil.copy(options.slide, CARRIED / f"slide{options.slide.suffix}")
    size = sum(path.stat().st_size for path in CARRIED.rglob("*") if path.is_file())
    print(f"{size / 1e6:.1f} MB in {CARRIED}")
    if size > LIMIT:
        sys.exit(f"more than {LIMIT / 2**20:.0f} MiB: give a smaller --slide")


def download(folder: Path, python: str) -> list[Path]:
    """Download the wheels of all packages for a version of Python."""
    platforms = [flag for name in _PLATFORMS for flag in ("--platform", f"manylinux_{name}_x86_64")]
    only = ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python, *platforms]
    command = [sys.executable, "-m", "pip", "download", "-q", *only, "--platform", "manylinux2014_x86_64"]
    subprocess.run([*command, "-d", str(folder), *PACKAGES], check=True)
    (pydantic,) = folder.glob("pydantic-*.whl")
    subprocess.run([*command, "-d", str(folder), required_core(pydantic)], check=True)
    return sorted(folder.glob("*.whl"))


def required_core(wheel: Path) -> str:
    """Read from pydantic's wheel which core it wants: `pydantic-core==VERSION`."""
    with zipfile.ZipFile(wheel) as file:
        name = next(name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        found = re.search(r"Requires-Dist: (pydantic-core==[\w.]+)", file.read(name).decode())
    assert found
    return found[1]


def trim_wheel(wheel: Path, out: Path) -> None:
    """Copy a wheel, without what is not needed of the two largest."""
    if not wheel.name.startswith(("imagecodecs-", "numcodecs-")):
        shutil.copy(wheel, out)
        return
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as trimmed:
        with zipfile.ZipFile(wheel) as file:
            file.extractall(folder)
        for path in sorted(Path(folder).rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_dir() or name.startswith("numcodecs/tests/"):
                continue
            if name.startswith("imagecodecs") and not _CODECS.match(name):
                continue
            if name.startswith("numcodecs/") and path.suffix == ".so":
                subprocess.run(["strip", "--strip-debug", str(path)], check=True)
            trimmed.write(path, name)


if __name__ == "__main__":
    main()
