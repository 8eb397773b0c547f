"""A store in a real S3 bucket reads as the same store on disk does; what is wrong with the way there is said."""

from __future__ import annotations

import pickle
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from tests.support.made_store import paint_tissue, store_slide
from tests.support.s3_server import BUCKET, s3_endpoint, upload
from wsi_stain.core.errors import StoreError
from wsi_stain.core.geometry import Region, Size, TileIndex
from wsi_stain.core.storage import S3Path, list_folders, storage_path
from wsi_stain.store import StoredSlide, TileStore

SIZE = Size(1500, 1100)


@pytest.fixture(scope="module", autouse=True)
def endpoint() -> Iterator[str]:
    with s3_endpoint() as address:
        yield address


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> TileStore:
    root = tmp_path_factory.mktemp("local") / "store"
    tissue = np.linspace(0, 1, 30, dtype=np.float32).reshape(5, 6)
    store_slide(root, "one", paint_tissue(SIZE), tissue)
    store_slide(root, "two", paint_tissue(Size(300, 200)), codec="jpeg")
    TileStore(root).writer("unfinished").begin(
        SIZE, np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), bool), TileStore(root)["one"].grid
    )
    return TileStore(root)


@pytest.fixture(scope="module")
def url(local: TileStore) -> str:
    assert isinstance(local.path, Path)
    return upload(local.path, "deep/store")


def test_every_read_is_that_of_the_local_store(local: TileStore, url: str) -> None:
    remote = TileStore(url)
    assert remote.slide_ids() == local.slide_ids() == ["one", "two"]
    for slide_id in local.slide_ids():
        here, there = local[slide_id], remote[slide_id]
        assert there.record == here.record
        assert there.codec == here.codec
        for name in ("kept", "tissue", "thumbnail", "mask"):
            assert np.array_equal(getattr(there, name), getattr(here, name))
        for region in (Region(0, 0, *here.size), Region(-20, 130, 600, 90), Region(255, 255, 2, 2)):
            assert np.array_equal(there.read(region), here.read(region))
        assert there.maps() == here.maps() == ["kept", "tissue"]
        tiles = [TileIndex(0, 1), TileIndex(4, 5), *here.tile_indices(), TileIndex(9, 9)]
        assert np.array_equal(there.read_tiles(tiles), here.read_tiles(tiles))


def mean_of(slide: StoredSlide) -> float:
    return float(slide.read(Region(0, 0, *slide.size)).mean())


def test_a_pickled_slide_reads_in_another_process(local: TileStore, url: str) -> None:
    slide = TileStore(url)["one"]
    assert pickle.loads(pickle.dumps(slide)).record == slide.record
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        assert process.submit(mean_of, slide).result() == mean_of(local["one"])


def test_a_store_at_the_top_of_a_bucket(tmp_path: Path) -> None:
    store_slide(tmp_path, "top", paint_tissue(Size(300, 200)))
    upload(tmp_path, "")
    assert TileStore(f"s3://{BUCKET}/").slide_ids() == ["top"]


def test_nothing_is_written(url: str) -> None:
    with pytest.raises(StoreError, match="can only be read"):
        TileStore(url).writer("new")


@pytest.mark.parametrize("url", [f"s3://{BUCKET}/none", f"s3://{BUCKET}/deep"])
def test_a_wrong_prefix_is_no_store(url: str) -> None:
    with pytest.raises(StoreError, match=f"tile store of format 1 at {url}, found none"):
        TileStore(url)


def test_a_slide_that_is_not_there(url: str) -> None:
    for slide_id in ("none", "unfinished"):
        with pytest.raises(StoreError, match="no complete slide"):
            TileStore(url)[slide_id]


def test_a_wrong_bucket_is_said() -> None:
    with pytest.raises(StoreError, match=r"nobucket/zarr.json cannot be read: .*not found") as caught:
        TileStore("s3://nobucket")
    assert "Check bucket and prefix" in caught.value.remedy


def test_an_url_without_a_bucket_is_refused() -> None:
    with pytest.raises(StoreError, match="names no bucket"):
        TileStore("s3://")


def test_a_missing_shard_is_an_error_not_glass(tmp_path: Path) -> None:
    slide = store_slide(tmp_path, "holey", paint_tissue(Size(300, 200)))
    assert isinstance(slide.path, Path)
    (slide.path / "0/c/0/0/0").unlink()
    holey = TileStore(upload(tmp_path, "holey"))["holey"]
    with pytest.raises(StoreError, match=r"s3://.*/0/c/0/0/0 cannot be read: No such file"):
        holey.read_tile(TileIndex(0, 0))


def test_an_endpoint_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="cannot be read") as caught:
        TileStore(url)
    assert "AWS_ENDPOINT_URL" in caught.value.remedy
    assert "\n" not in caught.value.problem


def test_wrong_credentials_are_said(endpoint: str, url: str) -> None:
    def check_credentials_after(requests: str) -> None:
        to_utf8 = {"Content-Type": "text/plain"}
        urllib.request.urlopen(
            urllib.request.Request(f"{endpoint}/moto-api/reset-auth", requests.encode(), to_utf8, method="POST")
        ).close()

    check_credentials_after("0")
    try:
        with pytest.raises(StoreError, match="privileges") as caught:
            TileStore(url)
    finally:
        check_credentials_after("inf")
    assert "AWS_ACCESS_KEY_ID" in caught.value.remedy


def test_without_obstore_the_remedy_installs_it(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(StoreError, match="needs obstore") as caught:
        TileStore(url)
    assert "wsi-stain[s3]" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("s3://b", S3Path("b")),
        ("s3://b/", S3Path("b")),
        ("s3://b/p/q/", S3Path("b", "p/q")),
        (Path("s3://b/p"), S3Path("b", "p")),
        ("slides/s3", Path("slides/s3")),
        ("/s3://b", Path("/s3:/b")),
    ],
)
def test_what_a_text_means(text: str | Path, place: Path | S3Path) -> None:
    assert storage_path(text) == place
    assert storage_path(place) == place


def test_paths_in_a_bucket_join_and_part() -> None:
    path = S3Path("b") / "p" / "q/r"
    assert (str(path), path.name, path.parent, path.parent.name) == ("s3://b/p/q/r", "r", S3Path("b", "p/q"), "q")
    assert str(S3Path("b")) == "s3://b"


def test_folders_of_either_kind(local: TileStore, url: str, tmp_path: Path) -> None:
    assert list_folders(local.path) == list_folders(storage_path(url)) == ["one", "two", "unfinished"]
    assert list_folders(tmp_path / "none") == list_folders(storage_path(url) / "none") == []
