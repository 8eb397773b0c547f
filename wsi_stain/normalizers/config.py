"""Settings of the normalization, and what their `auto` values become on a device. Knows no slides."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wsi_stain.core.geometry import TILE
from wsi_stain.core.records import StrictRecord
from wsi_stain.pix2pix.precision import Precision, resolve_precision

ClassicalMethod = Literal["reinhard", "macenko", "vahadane"]
Method = Literal["pix2pix", "simulated"] | ClassicalMethod
Mode = Literal["auto", "generator", "guard", "lut"]

_GPU_THREADS = 4
"""As many as a block has bands of 1024 px. What is fastest was not measured."""

_SAMPLE_PARTS = 4


class NormalizeConfig(StrictRecord):
    """Settings of the normalization: the method, and what becomes of the generated pixels.

    Attributes:
        method: `pix2pix`, or a classical method at slide level, for which no other setting here counts; `simulated`
            is that of `wsi-stain simulate`, which shows slides as another laboratory would.
        mode: `generator`: as they are. `guard`: the source with the smooth part of the change. `lut`: one colour table
            per slide, fitted to the generator, applied to every pixel. `auto`: `generator` on a GPU, `lut` without.
        stride_px: Side of the square that is one pass's own, px; a multiple of 256. Seams are impossible where it is at
            least twice the generator's halo (96 px at five downs, 192 at six, 768 at eight); else passes are blended.
        batch: Squares of one pass. Part of the fixed shape, as `stride_px` is.
        compile: Whether torch.compile translates the generator: worth its minute on large cohorts.
        precision: Of the generator; `auto` is bfloat16 where the device computes in it natively, else float32.
        guard_um: Half the side of the windows within which `guard` takes the change for smooth, um.
        hold_um: Half the side of the squares over which `generator` and `guard` hold the mean colour around a pixel to
            the slide's colour table, um; detail finer than 4 px is the table's as well, which is sharper than what is
            generated. 0 leaves all of it as generated. It takes more pixels around a pass: at 0.25 um/px, with 4 um and
            passes of 1024 px, a fifth more is generated.
        lut_size: Entries along each side of the colour table. On a held-out part of a real slide, shown as four other
            laboratories would have it, 33 comes no nearer to the truth than 17 (CIEDE2000 apart by 0.02 at most) and
            takes ten times as long to fit, 1 s, which no other worker can share.
        lut_tiles: Tissue tiles of a slide that the table is fitted to and checked on; 50, 100 and 200 come equally
            near to the truth, but the more, the fewer colours are left that the table was not fitted to.
        lut_outside: Share of the tissue, 0 to 1, with such colours, above which a slide's row and a line say so; two
            real slides have 0.00001.
        threads: Threads of one task, each with a band of the block: reading, copies, the generator and encoding
            overlap. None takes 4 on a GPU, and without one 1, since there the executor starts a process for each core.
            Neither changes the bytes.
    """

    method: Method = "pix2pix"
    mode: Mode = "auto"
    stride_px: int = Field(default=1024, ge=TILE, le=4096, multiple_of=TILE)
    batch: int = Field(default=1, ge=1, le=64)
    compile: bool = False
    precision: Precision = "auto"
    guard_um: float = Field(default=8.0, ge=1, le=64)
    hold_um: float = Field(default=4.0, ge=0, le=64)
    lut_size: int = Field(default=17, ge=5, le=65)
    lut_tiles: int = Field(default=100, ge=10, le=1000)
    lut_outside: float = Field(default=0.001, ge=0, le=1)
    threads: int | None = Field(default=None, ge=1, le=256)

    def resolve_auto(self, device: str) -> NormalizeConfig:
        """Replace each `auto`, and None for `threads`, by what the device gets. No other code decides them.

        A run resolves its settings once, before any task is made, so that workers do not decide one by one.
        """
        on_gpu = device.startswith("cuda")
        resolved = {
            "mode": ("generator" if on_gpu else "lut") if self.mode == "auto" else self.mode,
            "precision": resolve_precision(self.precision, device),
            "threads": self.threads or (_GPU_THREADS if on_gpu else 1),
        }
        return self.model_copy(update=resolved)

    @property
    def name(self) -> str:
        """The classical method, or the mode of Pix2Pix."""
        return self.mode if self.method == "pix2pix" else self.method

    @property
    def needs_generator(self) -> bool:
        """True if blocks go through the generator; a colour table and the classical methods need none any more."""
        return self.method == "pix2pix" and self.mode != "lut"

    @property
    def sample_parts(self) -> int:
        """Number of parts in which a slide is sampled for its colour table, each by a task of its own; 0: no table."""
        return _SAMPLE_PARTS if self.method == "pix2pix" else 0
