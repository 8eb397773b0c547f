"""The commands `wsi-stain evaluate ...`: help texts, and one call each into a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.cli.options import (
    STORE,
    SlideMpp,
    Workers,
    absolute,
    checkpoint_file,
    console,
    find_checkpoint,
    overrides_of,
)
from wsi_stain.core.storage import storage_path

evaluate = typer.Typer(
    no_args_is_help=True, help="Measure how good a normalization is, beside Reinhard, Macenko and Vahadane."
)

Checkpoint = Annotated[
    Path | None, typer.Option(callback=checkpoint_file, help="Checkpoint made by train or run, to compare; or shipped.")
]
Modes = Annotated[
    list[str] | None,
    typer.Option(
        "--mode",
        show_default="auto: generator on a GPU, else lut",
        help="How it changes pixels: generator, guard, lut; repeatable.",
    ),
]
Baselines = Annotated[
    list[str] | None,
    typer.Option(
        "--baseline", show_default="all three", help="Compare only these of reinhard, macenko, vahadane; repeatable."
    ),
]
Reference = Annotated[
    str | None, typer.Option("--reference", "-r", help=f"Tile store of the reference's slides ({STORE}).")
]
Results = Annotated[
    Path, typer.Option("--out", "-o", callback=absolute, help="Directory for tables, figures and pictures.")
]


@evaluate.command()
def pairs(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            callback=absolute,
            exists=True,
            help="Slides, patches (PNG, JPEG) or a tile store of one laboratory.",
        ),
    ],
    truth: Annotated[
        Path,
        typer.Argument(
            metavar="TRUTH",
            callback=absolute,
            exists=True,
            help="The same tissue in the reference's stain, registered, under the same names.",
        ),
    ],
    out: Results,
    checkpoint: Checkpoint = None,
    mode: Modes = None,
    baseline: Baselines = None,
    normalized: Annotated[
        Path | None,
        typer.Option(
            callback=absolute, exists=True, help="SOURCE as normalized before: a run's OUT, slides, or patches."
        ),
    ] = None,
    reference: Reference = None,
    mpp: Annotated[
        float | None,
        typer.Option(
            "--mpp", help="Resolution of patches, um per px, which do not say it; slides are resampled to it."
        ),
    ] = None,
    slide_mpp: SlideMpp = None,
    pool: Annotated[
        Literal["group", "folder", "all"],
        typer.Option(
            help="Sources that share stain statistics: those of one group in the slide list, of one folder, or all."
        ),
    ] = "group",
    workers: Workers = None,
) -> None:
    """Compare registered pairs: each SOURCE normalized by every method, with its TRUTH pixel by pixel."""
    from pipelines.evaluate import pairs as pipeline
    from pipelines.shared.config import choose_config

    run_config = choose_config(None, overrides_of(mpp, slide_mpp, workers=workers))
    reference_store = absolute(storage_path(reference)) if reference else None
    request = pipeline.Request(
        source, truth, checkpoint, mode or [], baseline or [], normalized, reference_store, mpp, pool, out, run_config
    )
    raise typer.Exit(pipeline.run(request, console()))


@evaluate.command()
def cohort(
    slides: Annotated[str, typer.Argument(metavar="OUT|STORE", help="Output directory of a run, or a tile store.")],
    out: Results,
    reference: Reference = None,
    checkpoint: Checkpoint = None,
    mode: Modes = None,
    baseline: Baselines = None,
    workers: Workers = None,
) -> None:
    """Measure a cohort without truth: how alike its slides are and how near the reference, before and after."""
    from pipelines.evaluate import cohort as pipeline
    from pipelines.shared.config import choose_config

    run_config, reference_store = (
        choose_config(None, overrides_of(workers=workers)),
        absolute(storage_path(reference)) if reference else None,
    )
    request = pipeline.Request(
        absolute(storage_path(slides)), reference_store, checkpoint, mode or [], baseline or [], out, run_config
    )
    raise typer.Exit(pipeline.run(request, console()))


@evaluate.command()
def transfer(
    train: Annotated[
        str,
        typer.Argument(metavar="TRAIN", help=f"Labelled tile store to train on, the reference laboratory's ({STORE})."),
    ],
    test: Annotated[str, typer.Argument(metavar="TEST", help="Labelled tile store of the other laboratory.")],
    out: Results,
    checkpoint: Checkpoint = None,
    mode: Modes = None,
    baseline: Baselines = None,
    positive: Annotated[str | None, typer.Option(show_default="of two the last", help="The label to find.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Classifiers to train, each with its own split.")] = 3,
    patches: Annotated[int, typer.Option(min=1, help="Most patches of a slide.")] = 1000,
    backbone: Annotated[str, typer.Option(help="A network of torchvision; it starts from nothing.")] = "resnet18",
    side: Annotated[int, typer.Option(min=32, max=512, help="Size that patches are brought to, px.")] = 64,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the patches.")] = 10,
    workers: Workers = None,
) -> None:
    """Train a classifier on TRAIN, test it on TEST raw and by every method: AUC, with intervals by slide."""
    from pipelines.evaluate import transfer as pipeline
    from pipelines.shared.config import choose_config
    from wsi_stain.evaluation.classifier import ClassifierConfig

    train_store, test_store = (absolute(storage_path(store)) for store in (train, test))
    run_config = choose_config(None, overrides_of(workers=workers))
    classifier = ClassifierConfig(backbone=backbone, side=side, epochs=epochs)
    request = pipeline.Request(
        train_store,
        test_store,
        checkpoint,
        mode or [],
        baseline or [],
        positive,
        seeds,
        patches,
        classifier,
        out,
        run_config,
    )
    raise typer.Exit(pipeline.run(request, console()))


@evaluate.command()
def robustness(
    out: Results,
    stores: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STORE]...",
            help=f"Labelled tile stores ({STORE}), one a centre; or one whose slides know their site.",
        ),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            help="Ready features instead: HDF5 or NPZ, a file or a directory; repeatable, the untouched first.",
        ),
    ] = None,
    listed: Annotated[
        Path | None,
        typer.Option(
            "--list",
            callback=absolute,
            exists=True,
            dir_okay=False,
            help="CSV of slides or patches with ready features: slide, site, label, patient.",
        ),
    ] = None,
    encoder: Annotated[
        str, typer.Option(help="What makes features of patches: a network of torchvision, or a file .onnx.")
    ] = "resnet18",
    weights: Annotated[
        Path | None, typer.Option(callback=absolute, exists=True, help="The network's weights (safetensors).")
    ] = None,
    download_weights: Annotated[
        bool, typer.Option("--download-weights", help="Let torchvision download its weights for the network, once.")
    ] = False,
    side: Annotated[int, typer.Option(min=32, max=1024, help="Size that patches are brought to, px.")] = 224,
    patches: Annotated[int, typer.Option(min=1, help="Most patches of a slide.")] = 200,
    registered: Annotated[
        bool, typer.Option("--registered", help="Slides of one name show the same places in each store.")
    ] = False,
    neighbours: Annotated[
        int | None,
        typer.Option(min=1, show_default="best for the biology", help="Neighbours of the robustness index."),
    ] = None,
    reference: Reference = None,
    checkpoint: Checkpoint = None,
    mode: Modes = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline", show_default="reinhard and macenko", help="Compare only these, or vahadane; repeatable."
        ),
    ] = None,
    workers: Workers = None,
) -> None:
    """Does normalization help a cohort of several centres? What an encoder sees of it before and after; a verdict."""
    from pipelines.evaluate import robustness as pipeline
    from pipelines.evaluate.cohort_features import Stores, choose_source
    from pipelines.shared.config import choose_config
    from wsi_stain.evaluation.robustness.encoders import EncoderConfig

    from_stores = Stores(
        [absolute(storage_path(store)) for store in stores or []],
        EncoderConfig(encoder=encoder, weights=weights, download=download_weights),
        side,
        patches,
        registered,
        absolute(storage_path(reference)) if reference else None,
        checkpoint,
        mode or [],
        baseline or ["reinhard", "macenko"],
    )
    source = choose_source(from_stores, features or [], listed)
    request = pipeline.Request(source, neighbours, out, choose_config(None, overrides_of(workers=workers)))
    raise typer.Exit(pipeline.run(request, console()))


@evaluate.command()
def scanners(
    stores: Annotated[
        list[Path],
        typer.Argument(
            metavar="STORE...",
            callback=absolute,
            exists=True,
            help="A tile store of each scanner, of the same places under the same names.",
        ),
    ],
    out: Results,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCANNER=FILE", help="Checkpoint trained on a scanner's store, by its name; or shipped; repeatable."
        ),
    ] = None,
    mode: Modes = None,
    baseline: Baselines = None,
    workers: Workers = None,
) -> None:
    """Compare the same places by several scanners in every direction: one table, with intervals by slide."""
    from pipelines.evaluate import scanners as pipeline
    from pipelines.shared.config import choose_config

    run_config = choose_config(None, overrides_of(workers=workers))
    checkpoints = {name: find_checkpoint(path) for name, path in pipeline.parse_checkpoints(checkpoint or []).items()}
    request = pipeline.Request(stores, checkpoints, mode or [], baseline or [], out, run_config)
    raise typer.Exit(pipeline.run(request, console()))
