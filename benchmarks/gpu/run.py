"""Everything that is to be measured on a GPU, in order of worth, in at most eight minutes; no network is needed.

    python benchmarks/gpu/run.py OUT [--dry-run] [--minutes 8] [--parts NAME ...]

Each part is a process of its own with a time limit, and writes what it found before the next begins. The same command
goes on where it ended: parts that are done are not run again. OUT gets results/*.json, pictures/*.png and table.md.

With --dry-run nothing needs a GPU: tiny networks and slides pass through the same code on a CPU. Its numbers mean
nothing. What `prepare.py` carried is unpacked into OUT/site, as far as this machine lacks it.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import zipfile
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from results import Results, write_table

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

LIMITS_S = {
    "tests": 85,
    "correctness": 45,
    "same_bytes": 80,
    "bare": 50,
    "blocks": 60,
    "encoding": 25,
    "pyramids": 45,
    "giant": 60,
    "training": 30,
}
"""The parts in order of worth, and the seconds that each may take of eight minutes; of others, as much of a share."""

_MODULES = {
    "correctness": "checks",
    "same_bytes": "checks",
    "bare": "speed",
    "blocks": "speed",
    "encoding": "encoding",
    "pyramids": "speed",
    "giant": "speed",
    "training": "learning",
}

_MINUTES = 8.0
_LEAST_S = 5.0


def main() -> None:
    """Run the parts that are left, or the one that this process is for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dry-run", action="store_true", help="tiny, on a CPU")
    parser.add_argument("--minutes", type=float, default=_MINUTES, help="to take at most, over all parts")
    parser.add_argument("--parts", nargs="*", choices=LIMITS_S, default=list(LIMITS_S))
    parser.add_argument("--within", choices=LIMITS_S, help=argparse.SUPPRESS)
    options = parser.parse_args()
    out = options.out.absolute()
    if options.within:
        run_part(options.within, out, options.dry_run)
        return
    deadline = time.monotonic() + 60 * options.minutes
    environment = set_up(out, options.dry_run)
    parts = {name: Results.load(out / "results" / f"{name}.json") for name in LIMITS_S}
    for name in options.parts:
        if parts[name].ended == "done":
            print(f"{name}: done before", flush=True)
            continue
        limit = min(LIMITS_S[name] * options.minutes / _MINUTES, deadline - time.monotonic())
        parts[name].path.unlink(missing_ok=True)
        print(f"{name}: at most {limit:.0f} s", flush=True)
        how = start_part(name, out, options.dry_run, environment, limit) if limit > _LEAST_S else "no time was left"
        parts[name] = Results.load(out / "results" / f"{name}.json")
        if how or not parts[name].ended:
            parts[name].end(how or "it died")
        write_table(parts, out / "table.md")
    print(write_table(parts, out / "table.md"))


def start_part(name: str, out: Path, dry_run: bool, environment: dict[str, str], limit: float) -> str:
    """Run a part in a process of its own; returns why it was stopped, or an empty string."""
    command = [sys.executable, str(Path(__file__)), str(out), "--within", name, *(["--dry-run"] if dry_run else [])]
    with subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True) as process:
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its workers, too
            return f"stopped after {limit:.0f} s"
    return "" if code == 0 else f"failed with exit code {code}"


def run_part(name: str, out: Path, dry_run: bool) -> None:
    """Run one part in this process."""
    results = Results(out / "results" / f"{name}.json")
    if name == "tests":
        run_tests(results, dry_run)
    else:
        from subjects import Setup  # which loads torch

        getattr(import_module(_MODULES[name]), name)(Setup(out, dry_run), results)
    results.end("done")


def run_tests(results: Results, dry_run: bool) -> None:
    """Run the tests that are marked `gpu`; in a dry run they are only collected."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "filterwarnings=default",
    ]
    folders = ["tests/pix2pix/test_gpu.py"] if dry_run else ["tests/normalizers", "tests/pix2pix", "tests/training"]
    command += [*folders, *(["--collect-only"] if dry_run else ["--maxfail", "20"])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout[-4000:], done.stderr[-2000:], flush=True)
    results.details["output"] = done.stdout[-20_000:]
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-200:]
    is_run = dry_run or " passed" in last  # without a GPU all are skipped
    results.add("tests marked gpu", last, "all pass", done.returncode == 0 and is_run)


def set_up(out: Path, dry_run: bool) -> dict[str, str]:
    """Unpack what this machine lacks; returns the environment of the parts."""
    site = out / "site"
    for wheel in sorted((HERE / "carried" / "wheels").glob("*.whl")):
        if not is_installed(wheel.name.split("-")[0]) and not list(
            site.glob(f"{'-'.join(wheel.name.split('-')[:2])}.*")
        ):
            with zipfile.ZipFile(wheel) as file:
                file.extractall(site)
    if not is_installed("wsi-stain"):
        info = site / "wsi_stain-0.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wsi-stain\nVersion: 0\n")
        (info / "entry_points.txt").write_text(
            "[zarr.codecs]\nimagecodecs_jpeg = wsi_stain.formats.zarr_jpeg:ZarrJpeg\n"
        )
    paths = [str(path) for path in (site, ROOT, HERE)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    return environment | ({"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} if dry_run else {})


def is_installed(name: str) -> bool:
    """Check whether this machine has a package."""
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main()
