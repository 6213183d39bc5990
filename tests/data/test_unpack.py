"""Archives unpacked once beside them: the same files as in a folder; unsafe ones are refused by member and leave nothing."""

import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkd.data.files import unpack
from segkd.data.files.sources import Source
from segkd.registry import UserError

CONTENT = {"a/b c.txt": b"one", "a/ü.png": bytes(1000), "a.txt": b"", "ab/x": b"x" * 70_000, "top": os.urandom(5000)}


def opened(path, archives=()):
    return list(unpack.sources(path, archives))[-1]


def left(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


@pytest.fixture
def tree(tmp_path):
    for name, data in CONTENT.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(data)
    return tmp_path / "tree"


def packed(tree, kind):
    path = tree.with_name(f"set.{kind.rpartition(' ')[2]}")
    if kind.endswith("zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if kind == "stored zip" else zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(tree.rglob("*")):
                archive.write(file, file.relative_to(tree))
    else:
        with tarfile.open(path, f"w:{kind[4:]}") as archive:
            for top in sorted(tree.iterdir()):
                archive.add(top, top.name)
    return path


@pytest.mark.parametrize("kind", ["folder", "zip", "stored zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_names_sizes_bytes_and_checksums(tree, kind):
    source = opened(tree if kind == "folder" else packed(tree, kind))
    assert source.names() == sorted(CONTENT) and source.names("a") == ["a/b c.txt", "a/ü.png"] and source.names("b") == []
    assert source.has_folder("a") and not source.has_folder("b") and source.has("top") and not source.has("a")
    for name in CONTENT:
        assert source.read(name) == CONTENT[name] and source.size(name) == len(CONTENT[name])
        assert source.checksum(name) == zlib.crc32(CONTENT[name])
    for call in (source.read, source.size):
        with pytest.raises(UserError, match="no/such"):
            call("no/such")


def test_unpacked_once_and_anew_when_the_archive_changes(tree, capsys):
    path = packed(tree, "zip")
    assert opened(path).folders == opened(path).folders == (unpack.unpacked(path),)
    assert capsys.readouterr().out == f"unpacking {path} beside it\n"
    (tree / "top").write_bytes(b"other")
    packed(tree, "zip")
    assert opened(path).read("top") == b"other" and len(left(tree.parent)) == 3  # tree, archive, one unpacked folder


def test_a_folder_with_some_archives_in_it(tmp_path, kit):
    for name in ("a/1", "b/2", "c/3"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True)
        (tmp_path / "tree" / name).write_bytes(name.encode())
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a/1").write_bytes(b"mine")
    (root / "a/0").write_bytes(b"mine too")
    kit.to_zip(root / "one.zip", tmp_path / "tree", ["a", "b"])
    kit.to_tar(root / "two.tar", tmp_path / "tree", ["c"])
    found = unpack.sources(root, ("one.zip", "two.tar.gz", "three.zip"))
    assert not next(found).has("b/2") and left(root) == ["a", "one.zip", "two.tar"]  # the folder alone, nothing unpacked
    source = next(found)
    assert [source.read(name) for name in ("a/1", "b/2", "c/3")] == [b"a/1", b"b/2", b"c/3"]  # the archive's before the folder's
    assert source.names("b") == ["b/2"] and "a/1" in source.names() and source.has_folder("c")
    assert source.size("a/1") == 3 and source.size("a/0") == 8 and source.path == root
    assert not opened(root).has("b/2")  # an archive that does not belong to the set is a file like others


def test_links_in_a_folder_are_followed_and_loops_end(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/x.png").write_bytes(b"x")
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "real")
    (root / "one.png").symlink_to(tmp_path / "real/x.png")
    (root / "loop").symlink_to(root)
    (root / "gone.png").symlink_to(tmp_path / "nothing")
    assert Source(root).names() == ["linked/x.png", "one.png"] and Source(root).read("one.png") == b"x"


def zip_of(path, name, data=b"x", mode=None):
    info = zipfile.ZipInfo("x")
    info.filename = info.orig_filename = name
    info.compress_type = zipfile.ZIP_DEFLATED
    if mode is not None:
        info.create_system, info.external_attr = 3, mode << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, data)
    return path


def tar_of(path, name, kind=tarfile.REGTYPE, data=b"", how="a", **fields):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    with tarfile.open(path, how) as archive:
        archive.addfile(info, io.BytesIO(data))
    return path


def patched_zip(path, name, data, local, central, change):
    """A zip whose headers, in the file and in the index, have ``change(four bytes)`` at these places."""
    zip_of(path, name, data)
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        at = content.rindex(signature) + offset
        content[at : at + 4] = change(content[at : at + 4])
    path.write_bytes(content)
    return path


def lying_zip(path):
    """A member whose index says 10 bytes and whose data unpacks to 100 million."""
    return patched_zip(path, "big.png", bytes(100_000_000), 22, 24, lambda _: struct.pack("<I", 10))


def encrypted_zip(path):
    return patched_zip(path, "secret.png", b"x", 6, 8, lambda old: bytes([old[0] | 1]) + old[1:])


def many_zip(path):
    """Each member grows by less than is refused of one; all together do not."""
    for number in range(3):
        zip_of(path, f"{number}.png", bytes(15_000_000))
    return path


BAD = {
    "zip ..": (lambda p: zip_of(p / "s.zip", "a/../../evil"), r"s.zip is not read: its member 'a/\.\./\.\./evil' has a path"),
    "zip absolute": (lambda p: zip_of(p / "s.zip", "/etc/x"), "member '/etc/x' has a path that could lead out"),
    "zip backslash": (lambda p: zip_of(p / "s.zip", "..\\evil"), "could lead out"),
    "zip newline": (lambda p: zip_of(p / "s.zip", "a\nb"), r"member 'a\\nb' has a name that cannot be shown"),
    "zip drive": (lambda p: zip_of(p / "s.zip", "C:/evil"), "member 'C:/evil' has a path"),
    "zip symlink": (lambda p: zip_of(p / "s.zip", "l", b"/etc/x", stat.S_IFLNK | 0o777), "member 'l' is a symbolic link"),
    "zip device": (lambda p: zip_of(p / "s.zip", "dev", mode=stat.S_IFBLK | 0o666), "member 'dev' is no plain file"),
    "zip bomb": (lambda p: zip_of(p / "s.zip", "b.png", bytes(40_000_000)), "'b.png' would grow from [0-9]+ to 40000000 bytes"),
    "zip twice": (lambda p: zip_of(zip_of(p / "s.zip", "a"), "./a"), "member 'a' is there twice"),
    "zip of bombs": (lambda p: many_zip(p / "s.zip"), "would grow the archive to [0-9]+ bytes or more"),
    "zip encrypted": (lambda p: encrypted_zip(p / "s.zip"), "'secret.png' is encrypted"),
    "zip lying index": (lambda p: lying_zip(p / "s.zip"), "s.zip is no .zip or .tar that can be read"),
    "tar ..": (lambda p: tar_of(p / "s.tar", "../evil"), r"s.tar is not read: its member '\.\./evil' has a path"),
    "tar absolute": (lambda p: tar_of(p / "s.tar", "/etc/x"), "member '/etc/x' has a path"),
    "tar symlink": (lambda p: tar_of(p / "s.tar", "l", tarfile.SYMTYPE, linkname="/etc/passwd"), "member 'l' is a symbolic link"),
    "tar hard link": (lambda p: tar_of(p / "s.tar", "l", tarfile.LNKTYPE, linkname="x"), "member 'l' is a hard link"),
    "tar device": (lambda p: tar_of(p / "s.tar", "null", tarfile.CHRTYPE, devmajor=1, devminor=3), "'null' is a device"),
    "tar twice": (lambda p: tar_of(tar_of(p / "s.tar", "a"), "./a"), "member 'a' is there twice"),
    "tgz bomb": (lambda p: tar_of(p / "s.tgz", "b", data=bytes(40_000_000), how="w:gz"), "'b' would grow the archive to 40000000 bytes"),
    "tar pipe": (lambda p: tar_of(p / "s.tar", "pipe", tarfile.FIFOTYPE), "'pipe' is a device or other special file"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("what", BAD)
def test_unsafe_archives_are_refused_by_member_and_leave_nothing(what, tmp_path):
    build, message = BAD[what]
    path = build(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        opened(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value) and left(tmp_path) == [path.name]


def test_a_huge_member_and_a_huge_file(tmp_path, monkeypatch):
    from segkd.data.files import sources

    path = zip_of(tmp_path / "s.zip", "b.png", os.urandom(3000))
    (tmp_path / "b.png").write_bytes(bytes(3000))
    monkeypatch.setattr(unpack, "LARGEST", 2000)
    monkeypatch.setattr(sources, "LARGEST", 2000)
    with pytest.raises(UserError, match="'b.png' has 3000 bytes, more than 2000"):
        opened(path)
    with pytest.raises(UserError, match="b.png has 3000 bytes, more than 2000"):
        Source(tmp_path).read("b.png")


def test_a_full_or_closed_disk_is_said_and_leaves_nothing(tree, monkeypatch):
    path = packed(tree, "zip")
    with monkeypatch.context() as patch, pytest.raises(UserError, match="set.zip cannot be unpacked beside it .No space.*room"):
        patch.setattr(unpack.shutil, "copyfileobj", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        opened(path)
    assert left(tree.parent) == ["set.zip", "tree"]
    assert opened(path).read("top") == CONTENT["top"]


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04" + bytes(100), bytes(100)])
def test_what_is_no_archive(tmp_path, content):
    path = tmp_path / "s.zip"
    path.write_bytes(content)
    with pytest.raises(UserError, match="s.zip is no .zip or .tar that can be read"):
        opened(path)
    with pytest.raises(UserError, match="nothing.zip cannot be read"):
        opened(tmp_path / "nothing.zip")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_cut_off_archives(tmp_path, kind):
    (tmp_path / "tree").mkdir()
    for name in ("a", "b"):
        (tmp_path / "tree" / name).write_bytes(os.urandom(20_000))
    path = packed(tmp_path / "tree", kind)
    path.write_bytes(path.read_bytes()[:25_000])
    with pytest.raises(UserError, match=rf"set.{kind} is no .zip or .tar that can be read"):
        opened(path)
    assert left(tmp_path) == [path.name, "tree"]


@settings(max_examples=150)
@given(st.data())
def test_damaged_archives_give_user_errors_or_the_right_bytes(tmp_path_factory, data):
    """Any byte changed: a zip's contents are checked by its sums, a tar's names and headers by its own."""
    kind = data.draw(st.sampled_from(["zip", "tar"]))
    path = tmp_path_factory.mktemp("fuzz") / f"s.{kind}"
    if kind == "zip":
        zip_of(path, "a/b.txt", b"hello hello hello")
    else:
        tar_of(path, "a/b.txt", data=b"hello hello hello")
    content = bytearray(path.read_bytes()[:2000])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        source = opened(path)
        got = [source.read(name) for name in source.names()]
    except UserError as error:
        assert "\n" not in str(error) and left(path.parent) == [path.name]
        return
    assert kind == "tar" or all(one == b"hello hello hello" for one in got)
