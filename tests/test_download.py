"""Downloads against a server of this process: hashes, mirrors, broken bodies, ranges, folders, no network."""

import hashlib
import os
import socket
import threading

import pytest

from segkd import download
from segkd.download import fetch, file_sha256
from segkd.registry import UserError

BODY = bytes(range(256)) * 1200
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server(serve):
    """/good and /ranges: the body (with ranges the latter); /short: half of it; /other: other bytes; /moved: elsewhere."""

    def answer(request, start):
        body = BODY[::-1] if request.path == "/other" else BODY
        if request.path == "/gone":
            return request.send_error(404)
        if request.path == "/moved":
            request.send_response(302)
            request.send_header("Location", serve.elsewhere)
            return request.end_headers()
        if request.path == "/good":
            start = None
        if (start or 0) >= len(body):
            return request.send_error(416)
        if request.path == "/shifted":
            start = start and start - 1
        begin = start or 0
        request.send(body, start, begin + (len(body) - begin) // 2 if request.path in ("/short", "/chopped") else len(body))

    serve.answer = answer
    return serve


def part(target):
    return target.with_name(f".{target.name}.{SHA[:8]}.part")


def test_a_file_arrives_whole_and_once(server, tmp_path, capsys):
    target = tmp_path / "deep" / "weights.pt"
    assert fetch([f"{server.url}/good"], SHA.upper(), target) == target
    assert target.read_bytes() == BODY and os.listdir(target.parent) == ["weights.pt"] and file_sha256(target) == SHA
    assert "download weights.pt from 127.0.0.1: 100%" in capsys.readouterr().err
    fetch([f"{server.url}/good"], SHA, target)
    assert len(server.asked) == 1


def test_a_wrong_hash_or_no_file_leaves_nothing_and_the_next_mirror_is_tried(server, tmp_path):
    target = tmp_path / "weights.pt"
    with pytest.raises(UserError, match="/other: has another SHA-256.*/gone: 404 .*by hand") as error:
        fetch([f"{server.url}/other", f"{server.url}/gone"], SHA, target)
    assert str(target) in str(error.value) and SHA in str(error.value) and not os.listdir(tmp_path)
    fetch([f"{server.url}/other", f"{server.url}/gone", f"{server.url}/good"], SHA, target)
    assert target.read_bytes() == BODY and [path for path, _ in server.asked] == ["/other", "/gone", "/other", "/gone", "/good"]


def test_a_broken_body_is_asked_for_the_rest(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TRIES", 2)
    with pytest.raises(UserError, match=f"/short: broke off after {len(BODY) * 3 // 4} of {len(BODY)} bytes"):
        fetch([f"{server.url}/short"], SHA, tmp_path / "a")
    assert part(tmp_path / "a").read_bytes() == BODY[: len(BODY) * 3 // 4] and not (tmp_path / "a").exists()
    fetch([f"{server.url}/ranges"], SHA, tmp_path / "a")
    assert [asked for _, asked in server.asked] == [None, f"bytes={len(BODY) // 2}-", f"bytes={len(BODY) * 3 // 4}-"]
    assert (tmp_path / "a").read_bytes() == BODY and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("path, requests", [("/ranges", 1), ("/good", 1), ("/shifted", 2)])
def test_a_partial_file_is_resumed_or_begun_anew(server, tmp_path, path, requests):
    part(tmp_path / "a").write_bytes(BODY[:1000])
    fetch([server.url + path], SHA, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY and os.listdir(tmp_path) == ["a"]
    assert server.asked[0] == (path, "bytes=1000-") and len(server.asked) == requests


@pytest.mark.parametrize("left", [b"x" * 1000, BODY + b"x", BODY])
def test_bad_or_complete_leftovers_do_no_harm(server, tmp_path, left):
    part(tmp_path / "a").write_bytes(left)
    fetch([f"{server.url}/ranges"], SHA, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY and len(server.asked) == (0 if left == BODY else 2)


def test_no_network_is_said_with_the_address(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/a"
        with pytest.raises(UserError, match=f"{url}: no connection .*refused.*by hand"):
            fetch([url], SHA, tmp_path / "a")
    assert not os.listdir(tmp_path)


def test_folders_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="cannot write .*make .* a folder"):
        fetch([f"{server.url}/good"], SHA, tmp_path / "file" / "a")

    def refuse(*_):  # a folder's mode does not keep the superuser out
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(download, "open", refuse, raising=False)
    with pytest.raises(UserError, match="cannot write .*Permission denied"):
        fetch([f"{server.url}/good"], SHA, tmp_path / "a")
    assert not server.asked


def test_an_md5_where_there_is_no_better_hash_and_a_file_with_other_content_is_never_replaced(server, tmp_path):
    md5 = hashlib.md5(BODY).hexdigest()
    fetch([f"{server.url}/other", f"{server.url}/good"], f"md5:{md5}", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY and os.listdir(tmp_path) == ["a"]
    with pytest.raises(UserError, match="/other: has another MD5"):
        fetch([f"{server.url}/other"], f"md5:{md5}", tmp_path / "b")
    with pytest.raises(UserError, match=f"a: MD5 is {md5[:16]}..., expected 0000.*remove the file"):
        fetch([f"{server.url}/good"], f"md5:{'0' * 32}", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY and len(server.asked) == 3


def test_without_a_hash_a_whole_body_is_taken_and_a_broken_one_is_not(server, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(UserError, match="broke off .*by hand$"):
        patch.setattr(download, "TRIES", 1)
        fetch([f"{server.url}/short"], None, tmp_path / "a")
    fetch([f"{server.url}/ranges"], None, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY and os.listdir(tmp_path) == ["a"]
    assert server.asked[-1] == ("/ranges", f"bytes={len(BODY) // 2}-")


@pytest.mark.parametrize("urls", [["file:///etc/hostname"], ["ftp://127.0.0.1/a"], ["http:///a"], [], "http://127.0.0.1/a"])
def test_only_http_and_https(urls, tmp_path):
    with pytest.raises(UserError, match="address"):
        fetch(urls, SHA, tmp_path / "a")
    with pytest.raises(UserError, match="no SHA-256"):
        fetch(["http://127.0.0.1/a"], "abc", tmp_path / "a")


def test_redirects_stay_on_the_web(server, tmp_path):
    server.elsewhere = f"{server.url}/good"
    fetch([f"{server.url}/moved"], SHA, tmp_path / "a")
    for server.elsewhere in ("file:///etc/hostname", "ftp://127.0.0.1/a"):
        with pytest.raises(UserError, match="/moved: "):
            fetch([f"{server.url}/moved"], SHA, tmp_path / "b")
    assert os.listdir(tmp_path) == ["a"]


def test_two_at_once_download_once(server, tmp_path):
    threads = [threading.Thread(target=fetch, args=([f"{server.url}/good"], SHA, tmp_path / "a")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_bytes() == BODY and len(server.asked) == 1 and os.listdir(tmp_path) == ["a"]
