"""Receipts: they hold as long as their products do; a commit that is killed can be done again."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.core.test_journal import names, python
from wsi_stain.core import journal
from wsi_stain.core.receipts import (
    Receipt,
    commit_directory,
    describe_product,
    directory_product,
    file_product,
    valid_receipt,
    write_receipt,
)


class Tiles(Receipt):
    """What the receipts of these tests say beside."""

    tiles: int


@pytest.fixture
def product(tmp_path: Path) -> Path:
    path = tmp_path / "product"
    path.write_bytes(b"pixels")
    return path


def test_a_receipt_holds_as_long_as_its_product(tmp_path: Path, product: Path) -> None:
    written = write_receipt(tmp_path / "r.json", Tiles(key="key", product=file_product(product), tiles=3))
    assert written["product"] == {"name": "product", "size": 6, "sha256": journal.file_digest(product)}
    assert written["tiles"] == 3
    assert valid_receipt(tmp_path / "r.json", "key", product, Tiles) == written


@pytest.mark.parametrize("spoil", ["key", "size", "gone", "torn", "no product asked for", "says too little"])
def test_a_receipt_that_no_longer_holds_is_none(tmp_path: Path, product: Path, spoil: str) -> None:
    receipt_path = tmp_path / "r.json"
    write_receipt(receipt_path, Receipt(key="key", product=file_product(product)))
    if spoil == "size":
        product.write_bytes(b"pix")
    elif spoil == "gone":
        product.unlink()
    elif spoil == "torn":
        receipt_path.write_bytes(receipt_path.read_bytes()[:-9])
    asked = None if spoil == "no product asked for" else product
    kind = Tiles if spoil == "says too little" else Receipt
    assert valid_receipt(receipt_path, "other" if spoil == "key" else "key", asked, kind) is None


def test_a_receipt_may_stand_for_nothing_made(tmp_path: Path, product: Path) -> None:
    written = write_receipt(tmp_path / "r.json", Tiles(key="key", product=None, tiles=0))
    assert valid_receipt(tmp_path / "r.json", "key", None, Tiles) == written
    assert valid_receipt(tmp_path / "r.json", "key", product, Tiles) is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory that was made under its preliminary name."""
    path = tmp_path / "product.partial"
    (path / "b").mkdir(parents=True)
    (path / "b" / "c").write_bytes(b"pixels")
    (path / "a").write_bytes(b"more")
    return path


def commit(folder: Path) -> Tiles:
    product, receipt_path = folder.with_name("product"), folder.with_name("r.json")
    made = directory_product("product", journal.describe_files(folder))
    return commit_directory(folder, product, receipt_path, Tiles(key="key", product=made, tiles=3))


def test_a_directory_gets_its_name_and_a_receipt_of_every_file(tmp_path: Path, folder: Path) -> None:
    receipt = commit(folder)
    assert names(tmp_path) == ["product", "r.json"]
    files = receipt["product"]["files"]
    assert {name: made["size"] for name, made in files.items()} == {"a": 4, "b/c": 6}
    assert files["b/c"]["sha256"] == journal.file_digest(tmp_path / "product" / "b" / "c")
    assert (receipt["product"]["name"], receipt["product"]["size"], receipt["tiles"]) == ("product", 10, 3)
    assert valid_receipt(tmp_path / "r.json", "key", tmp_path / "product", Tiles) == receipt
    assert describe_product(tmp_path / "product") == receipt["product"]


@pytest.mark.parametrize("spoil", ["key", "cut", "gone", "all gone"])
def test_a_directory_that_lost_something_is_not_valid(tmp_path: Path, folder: Path, spoil: str) -> None:
    commit(folder)
    if spoil == "cut":
        (tmp_path / "product" / "b" / "c").write_bytes(b"pix")
    elif spoil == "gone":
        (tmp_path / "product" / "a").unlink()
    elif spoil == "all gone":
        journal.remove(tmp_path / "product")
    key = "other" if spoil == "key" else "key"
    assert valid_receipt(tmp_path / "r.json", key, tmp_path / "product", Tiles) is None


@pytest.mark.parametrize("visit", [1, 2], ids=["before the receipt", "before the name"])
def test_a_commit_that_was_killed_can_be_done_again(tmp_path: Path, folder: Path, visit: int) -> None:
    code = """
        import sys
        from pathlib import Path
        from wsi_stain.core.journal import describe_files
        from wsi_stain.core.receipts import commit_directory, directory_product
        here = Path(sys.argv[1])
        product = directory_product("product", describe_files(here / "product.partial"))
        receipt = {"key": "key", "product": product, "tiles": 3}
        commit_directory(here / "product.partial", here / "product", here / "r.json", receipt)
    """
    assert python(code, tmp_path, WSI_STAIN_FAILPOINT=f"before-rename:{visit}").returncode == -signal.SIGKILL
    assert not (tmp_path / "product").exists()
    assert valid_receipt(tmp_path / "r.json", "key", tmp_path / "product", Tiles) is None
    commit(folder)
    assert valid_receipt(tmp_path / "r.json", "key", tmp_path / "product", Tiles)


def test_a_directory_takes_the_place_of_what_was_there(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "product").mkdir()
    (tmp_path / "product" / "old").touch()
    commit(folder)
    assert names(tmp_path / "product") == ["a", "b"]
