"""Shipped configurations load; wrong ones are refused with the key's name and a remedy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from pipelines.shared.config import RunConfig, choose_config, configs_directory, load_config, shipped_configs
from wsi_stain.core.errors import ConfigError
from wsi_stain.core.records import StrictRecord


def test_the_four_situations_are_shipped() -> None:
    assert shipped_configs() == ["paper", "seed", "small", "wsi"]


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_configurations_load(name: str) -> None:
    assert isinstance(load_config(name), RunConfig)


@pytest.mark.parametrize("name", shipped_configs())
def test_every_key_of_a_shipped_configuration_has_a_comment(name: str) -> None:
    lines = (configs_directory() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    for above, line in zip(["", *lines], lines, strict=False):
        if ":" in line.split("#")[0]:
            assert "#" in line or above.lstrip().startswith("#"), f"no comment on: {line}"


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_training_sections_say_everything(name: str) -> None:
    """A reader of the file sees each value; nothing hides in a default."""
    values = yaml.safe_load((configs_directory() / f"{name}.yaml").read_text(encoding="utf-8"))
    assert set(values["training"]) == set(load_config(name).training.model_dump())


@pytest.mark.parametrize("name", ["small", "wsi"])
def test_the_default_configurations_say_everything_and_only_training_differs_from_the_code(name: str) -> None:
    values = yaml.safe_load((configs_directory() / f"{name}.yaml").read_text(encoding="utf-8"))
    said, meant = RunConfig.model_validate(values).model_dump(mode="json"), RunConfig().model_dump(mode="json")
    assert values == said
    assert said | {"training": None} == meant | {"training": None}


def test_the_published_recipe_is_as_published() -> None:
    """arXiv 1611.07004: sections 3.3 and 6.1, facades (400 images, 200 epochs); and the seed's own run."""
    paper, seed = load_config("paper").training, load_config("seed").training
    for found in (paper, seed):
        assert (found.lr, found.betas, found.lambda_l1, found.gan, found.ndf) == (2e-4, (0.5, 0.999), 100, "bce", 64)
        assert (found.generator.ngf, found.generator.dropout, found.generator.upsample) == (64, 0.5, "deconv")
        assert (found.template, found.ema, found.augment, found.clip) == ("gray", 0, False, 0)
    assert (paper.generator.downs, paper.batch, paper.images, paper.epochs, paper.constant_share) == (
        8,
        1,
        400,
        200,
        0.5,
    )
    assert (seed.images, seed.epochs) == (20_000, 6)


def test_every_settings_class_documents_its_fields() -> None:
    def walk(kind: type[StrictRecord]) -> None:
        for field, info in kind.model_fields.items():
            assert field in (kind.__doc__ or ""), f"{kind.__name__}.{field} is not in the docstring"
            if isinstance(info.annotation, type) and issubclass(info.annotation, StrictRecord):
                walk(info.annotation)

    walk(RunConfig)


def test_overrides_lie_over_the_file_and_none_changes_nothing() -> None:
    config = load_config("small", {"tiling": {"slide": {"mpp": 0.5, "slide_mpp": None}}, "keep_tiles": None})
    assert config.tiling.slide.mpp == 0.5
    assert config.tiling.slide.slide_mpp is None
    assert config.keep_tiles is False
    assert config.training == load_config("small").training


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("trainig: {}", "unknown key 'trainig'", id="unknown section"),
        pytest.param("training: {lerning_rate: 1}", "unknown key 'training.lerning_rate'", id="unknown key"),
        pytest.param("training: {epochs: -1}", "'training.epochs' is -1", id="out of range"),
        pytest.param("training: {lr: .nan}", "'training.lr'", id="not a number"),
        pytest.param("training: {crop: 100}", "^own.yaml: training: crop is 100, expected a multiple", id="a rule"),
        pytest.param("{stream: true, keep_tiles: true}", "^own.yaml: the file: stream stores no", id="a rule of all"),
        pytest.param("- a\n- b", "holds no sections", id="a list"),
        pytest.param("a: [1", "is not YAML", id="broken"),
        pytest.param("a: &a [x]\nb: [*a, *a]", "not YAML: it has an alias", id="an alias"),
        pytest.param("keep_tiles: 2026-99-99", "not YAML: month must be in", id="a date of no calendar"),
        pytest.param("a: [1\tx", "is not YAML", id="a tab"),
        pytest.param("a: b\0", "is not YAML", id="a NUL"),
        pytest.param("training: 5", "'training'", id="no section"),
        pytest.param("[" * 100_000, "is not YAML", id="nested too deep"),
        pytest.param("x" * (2**20 + 1), "has 1 MB", id="too large"),
        pytest.param(
            f"training: {{epochs: {'x' * 10**6}}}", r"'training.epochs' is 'x{1,20}\.\.\.x", id="a long value"
        ),
        pytest.param("a: !!python/object/apply:os.system ['true']", "is not YAML", id="code"),
    ],
)
def test_wrong_files_are_refused_with_the_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(str(path), {"training": {"epochs": None}})
    assert caught.value.remedy


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "own.yaml")
    for path, kind in ((tmp_path / "own.yaml", "a FIFO"), (Path("/dev/zero"), "a device"), (tmp_path, "a directory")):
        with pytest.raises(ConfigError, match=f"it is {kind}, expected a regular file"):
            load_config(str(path))


def test_keys_left_to_full_size_defaults_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.shared.config.gpu_count", lambda: 0)
    path, said = tmp_path / "own.yaml", list[str]()
    path.write_text("training: {epochs: 1}\nnormalize: {mode: lut}")
    choose_config(str(path), {}, said.append)
    assert len(said) == 1 and "leaves out training.generator and images" in said[0]
    choose_config("paper", {}, said.append)
    path.write_text("training: {images: 100, generator: {ngf: 8}}")
    choose_config(str(path), {}, said.append)
    assert len(said) == 1


def test_a_missing_file_names_the_shipped_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("nowhere.yaml")
    assert "small" in caught.value.remedy
