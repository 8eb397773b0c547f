"""Attack wsi-stain, and count what it survives: kills, torn and mutated files, rivals, names, a full disk.

    python benchmarks/attack.py                                          the default counts, tens of minutes
    python benchmarks/attack.py --only mutants --count 1000 --seed 7     a thousand of each kind

Every part is a function of its own, which counts what it tried, and says what was not survived. A disturbed run is
survived when the same command afterwards ends with exit code 0 and the bytes of a run that nobody disturbed. Commands
run in forks of this process, which has imported everything: hundreds of them are started and killed in minutes.

The full disk needs the right to mount; without it that part is skipped.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pipelines.run  # noqa: F401  imported once, before the forks
from pipelines.cli import app
from wsi_stain.core import journal
from wsi_stain.core.geometry import Size
from wsi_stain.synthetic import LABORATORIES, render_tissue, stain_tissue, write_slide

TIME_LIMIT_S = 300.0
"""For one command: what takes longer hangs."""

NASTY = "\x1b\x9b\u202e\u200b\n\t\x07<>:\"|?*\\'&;$`%~ .-_aZ\u00e9\u0301\u6f22\U0001f52c"


class Ended(NamedTuple):
    """How a command ended: its exit code, or minus the signal; None where it hung; and all that it printed."""

    code: int | None
    output: str


@dataclass
class Part:
    """Outcome of one part of the attack: what was tried, and what was not survived."""

    name: str
    tried: int = 0
    faults: list[str] = field(default_factory=list)
    note: str = ""

    def check(self, survived: bool, fault: str) -> None:
        """Count a case, and remember what was wrong with it."""
        self.tried += 1
        if not survived:
            self.faults.append(fault)


@dataclass(frozen=True)
class Target:
    """What is attacked: two slides, and what an undisturbed run makes of them.

    Attributes:
        folder: A folder of its own.
        digests: SHA-256 of its outputs, by name.
        seconds: How long it took.
        rng: Source of all chance.
    """

    folder: Path
    digests: dict[str, str]
    seconds: float
    rng: random.Random

    @property
    def slides(self) -> Path:
        """The slides."""
        return self.folder / "slides"

    def fresh(self) -> Path:
        """Name a place where nothing is yet."""
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        return out

    def recovers(self, out: Path) -> str:
        """Run the command again to its end; returns what is wrong then, empty where all is well."""
        ended = command(*run_arguments(self.slides, out))
        if ended.code != 0:
            return f"exit code {ended.code}: {' '.join(ended.output[-400:].split())}"
        if digests(out / "slides") != self.digests:
            return "other bytes"
        strays = [path.name for path in out.rglob("*.partial")]
        return f"left over: {strays}" if strays else ""


def run_arguments(slides: Path, out: Path) -> list[str]:
    """Return the command that is attacked: it tiles, measures the reference, normalizes, stitches and reports."""
    reference = slides.parent / "slides" / "a.svs"
    return ["run", str(slides), "--reference", str(reference), "--method", "macenko", "-o", str(out), "-j", "0"]


def start(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, Path]:
    """Start a command in a fork; returns its process id, and the file that gets what it prints."""
    handle, name = tempfile.mkstemp(prefix="attack-")
    if (pid := os.fork()) == 0:
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.environ.update(environment or {})
        journal._failpoint_plan.cache_clear()
        sys.argv = ["wsi-stain", *arguments]
        code = 70
        try:
            app.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            os._exit(code)
    os.close(handle)
    return pid, Path(name)


def wait(pid: int, output: Path, limit_s: float = TIME_LIMIT_S) -> Ended:
    """Wait for a command to end; what hangs is killed."""
    until = time.monotonic() + limit_s
    while (done := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < until:
        time.sleep(0.01)
    if done == (0, 0):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    text = output.read_text(encoding="utf-8", errors="replace")
    output.unlink()
    return Ended(None if done == (0, 0) else os.waitstatus_to_exitcode(done[1]), text)


def command(*arguments: str, environment: dict[str, str] | None = None) -> Ended:
    """Run a command to its end."""
    return wait(*start(*arguments, environment=environment))


def digests(folder: Path) -> dict[str, str]:
    """Hash every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def prepare(folder: Path, seed: int) -> Target:
    """Write the slides, and run the command undisturbed."""
    (folder / "slides").mkdir(parents=True)
    for number, name in enumerate(("a.svs", "b.svs")):
        pixels = stain_tissue(render_tissue(Size(420, 300), 0.5, number), LABORATORIES["other"], number)
        write_slide(folder / "slides" / name, pixels, 0.5, 20)
    started = time.monotonic()
    ended = command(*run_arguments(folder / "slides", folder / "whole"))
    assert ended.code == 0, ended.output
    found = digests(folder / "whole" / "slides")
    assert len(found) == 2
    return Target(folder, found, time.monotonic() - started, random.Random(seed))


def kills(target: Target, count: int) -> Part:
    """Kill the command at random moments, as kill -9 does."""
    part = Part("killed at a random moment")
    for _ in range(count):
        out, moment = target.fresh(), target.rng.uniform(0, target.seconds)
        pid, output = start(*run_arguments(target.slides, out))
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
        wait(pid, output)
        fault = target.recovers(out)
        part.check(not fault, f"after {moment:.2f} s: {fault}")
    return part


def failpoints(target: Target, count: int) -> Part:
    """Kill the command right before one of its renames, spread over all of them."""
    part, visit, step = Part("killed before a rename"), 1, 1
    renames = len([path for path in (target.folder / "whole").rglob("*") if path.is_file()])
    step = max(1, renames // count)
    for visit in range(1, 1 + step * count, step):
        out = target.fresh()
        ended = command(
            *run_arguments(target.slides, out), environment={"WSI_STAIN_FAILPOINT": f"before-rename:{visit}"}
        )
        if ended.code == 0:
            break
        fault = target.recovers(out)
        part.check(ended.code == -signal.SIGKILL and not fault, f"before rename {visit}: {ended.code} {fault}")
    return part


def torn(target: Target, count: int) -> Part:
    """Cut a file of a finished run short, as a power cut may, anywhere: made again, or refused with a remedy."""
    part, refused = Part("a file of the output directory cut short"), 0
    files = [p.relative_to(target.folder / "whole") for p in (target.folder / "whole").rglob("*") if p.is_file()]
    for _ in range(count):
        out, name = target.fresh(), target.rng.choice(sorted(files))
        shutil.copytree(target.folder / "whole", out)
        size = (out / name).stat().st_size
        os.truncate(out / name, target.rng.randrange(max(size, 1)))
        fault = target.recovers(out)
        is_refused = fault.startswith("exit code 1") and "damaged" in fault and "run the same command" in fault
        refused += is_refused
        part.check(not fault or is_refused, f"{name}: {fault}")
    part.note = f"of them {refused} refused with a remedy"
    return part


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Change some bytes, at the front more often than behind: bits, zeros, noise, a cut, a repetition, an insertion."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = min(int(rng.expovariate(1) * rng.choice((64, 4096, len(changed) / 2 + 1))), max(len(changed) - 1, 0))
        length = rng.choice((1, 4, 64, 4096))
        match rng.randrange(6):
            case 0 if changed:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at : at + length] = bytes(length)
            case 2:
                changed[at : at + length] = rng.randbytes(length)
            case 3:
                del changed[at:]
            case 4:
                changed[at:at] = changed[at : at + length]
            case _:
                changed[at:at] = rng.choice((b"\xff" * 4, b"[" * 2000, b"9" * 40, b"\0\0\0\x80", b'"'))
    return bytes(changed)


def mutants(target: Target, count: int) -> Part:
    """Change files of each kind at random, inputs and what a run left: an error in words, or a result."""
    part = Part("mutated files, of each kind as often")
    inputs = target.folder / "mutants"
    kinds: dict[str, Callable[[Path], list[str]]] = {
        "slides/a.svs": lambda path: ["inspect", str(path), "-j", "0"],
        "list.csv": lambda path: ["inspect", str(path), "-j", "0"],
        "own.yaml": lambda path: ["tile", str(target.slides), "-s", "x", "-c", str(path), "--dry-run", "-j", "0"],
        "whole/summary.csv": lambda path: ["report", str(path.parent)],
        "whole/run.json": lambda path: ["report", str(path.parent)],
        "whole/work/slides/a.svs/row.json": lambda path: ["report", str(path.parent.parent.parent.parent)],
    }
    (target.folder / "list.csv").write_text("slide,mpp,group\nslides/a.svs,0.5,x\nslides/b.svs,0.5,x\n")
    shutil.copy(Path(__file__).parent.parent / "configs" / "small.yaml", target.folder / "own.yaml")
    for number in range(count * len(kinds)):
        name = list(kinds)[number % len(kinds)]
        shutil.rmtree(inputs, ignore_errors=True)
        top = name.split("/")[0]
        if (target.folder / top).is_dir():
            shutil.copytree(target.folder / top, inputs / top)
        (inputs / name).parent.mkdir(parents=True, exist_ok=True)
        (inputs / name).write_bytes(mutate((target.folder / name).read_bytes(), target.rng))
        ended = command(*kinds[name](inputs / name))
        calm = ended.code in (0, 1, 2, 3) and "Traceback" not in ended.output and "please report" not in ended.output
        part.check(calm, f"{name}, case {number}: exit code {ended.code}: {ended.output[-400:]}")
    return part


def rivals(target: Target, count: int) -> Part:
    """Start many runs of one output directory at once: one does the work, the others say so and leave."""
    part, out = Part(f"{count} rival starts"), target.fresh()
    started = [start(*run_arguments(target.slides, out)) for _ in range(count)]
    ended = [wait(*each) for each in started]
    winners = sum(each.code == 0 for each in ended)
    refused = sum(each.code == 1 and "Another run" in each.output for each in ended)
    part.check(winners == 1 and refused == count - 1, f"{winners} won, {refused} were refused")
    fault = target.recovers(out)
    part.check(not fault, fault)
    return part


def names(target: Target, count: int) -> Part:
    """Call slides whatever a file system takes: each is done, and nothing of the names reaches the terminal raw."""
    part, slides = Part("hostile names"), target.folder / "named"
    shutil.rmtree(slides, ignore_errors=True)
    slides.mkdir()
    for _ in range(count):
        length = target.rng.choice((3, 20, 251))
        name = "".join(target.rng.choice(NASTY) for _ in range(length)).replace("/", "_").lstrip(".") or "x"
        cut = name.encode()[:length].decode(errors="ignore") or "x"  # nothing before the dot is a hidden file
        shutil.copy(target.slides / "a.svs", slides / f"{cut}.svs")
    out, found = target.fresh(), len(list(slides.iterdir()))
    ended = command(*run_arguments(slides, out), *(["--portable-names"] if target.rng.random() < 0.5 else []))
    lines = ended.output.splitlines()
    raw = [line for line in lines if any(unicodedata.category(letter) in ("Cc", "Cf") for letter in line)]
    part.tried = found
    made = len(list((out / "slides").rglob("*.ome.tif")))
    if ended.code != 0 or made != found or raw:
        part.faults.append(
            f"exit code {ended.code}, {made} of {found} made, {len(raw)} raw lines: {ended.output[-300:]}"
        )
    return part


def full_disks(target: Target, count: int) -> Part:
    """Run on disks of too few bytes: what does not fit is a row, and a rerun with room gives the same bytes."""
    part, disk = Part("a full disk"), target.folder / "disk"
    disk.mkdir(exist_ok=True)
    config = target.folder / "impatient.yaml"
    config.write_text("space_wait_s: 0\n")
    for _ in range(count):
        size = target.rng.randrange(1_200_000, 9_000_000)
        options = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if subprocess.run(options, capture_output=True, check=False).returncode:
            part.note = "skipped: no right to mount"
            return part
        try:
            ended = command(*run_arguments(target.slides, disk / "out"), "-c", str(config))
            said = ended.code == 0 or "No space left on device" in ended.output
            subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
            fault = target.recovers(disk / "out")
            calm = said and ended.code in (0, 1, 3) and "Traceback" not in ended.output
            part.check(calm and not fault, f"{size} bytes: {ended.code} {ended.output[-300:]} {fault}")
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
    return part


PARTS: dict[str, tuple[Callable[[Target, int], Part], int]] = {
    "kills": (kills, 10),
    "failpoints": (failpoints, 10),
    "torn": (torn, 15),
    "mutants": (mutants, 100),
    "rivals": (rivals, 20),
    "names": (names, 10),
    "full-disks": (full_disks, 5),
}
"""What is done, and how often unless `--count` says otherwise."""


def print_parts(parts: Sequence[Part]) -> None:
    """Print the table of counts, and below it what was not survived."""
    print(f"\n{'attack':42} {'tried':>6} {'survived':>9}")
    for part in parts:
        print(f"{part.name:42} {part.tried:6} {part.tried - len(part.faults):9}  {part.note}")
    for part in parts:
        for fault in part.faults:
            print(f"{part.name}: {fault!r}")


def main() -> int:
    """Attack; returns 1 where something was not survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to do")
    parser.add_argument("--count", type=int, help="how often, in place of each part's own number")
    parser.add_argument("--seed", type=int, default=0, help="of all chance; the moments of kills depend on the machine")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        target, parts = prepare(Path(folder), options.seed), []
        print(f"one undisturbed run: {target.seconds:.1f} s", flush=True)
        for name in options.only:
            attack, count = PARTS[name]
            part = attack(target, options.count or count)
            print(f"{part.name}: {part.tried - len(part.faults)} of {part.tried} {part.note}", flush=True)
            parts.append(part)
    print_parts(parts)
    return int(any(part.faults for part in parts))


if __name__ == "__main__":
    sys.exit(main())
