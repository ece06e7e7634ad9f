"""Archives: ordinary ones unpack completely, hostile ones not at all."""

from __future__ import annotations

import stat
import zipfile

import pytest

from pneumoscope.core.errors import DownloadError
from pneumoscope.data.download import unpack_zip


def make(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def test_films_unpack_and_the_single_top_folder_is_the_answer(tmp_path):
    archive = make(
        tmp_path / "a.zip",
        [
            ("chest_xray/train/NORMAL/IM-0001-0001.jpeg", b"film"),
            ("__MACOSX/chest_xray/._x", b"junk"),
            ("chest_xray/.DS_Store", b"junk"),
            ("chest_xray/test/", b""),
        ],
    )
    seen = []
    root = unpack_zip(archive, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert root == tmp_path / "out" / "chest_xray"
    assert [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()] == [
        "train/NORMAL/IM-0001-0001.jpeg"
    ]
    assert seen == [(1, 1)]


def test_an_older_folder_is_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stale").write_bytes(b"x")
    root = unpack_zip(make(tmp_path / "a.zip", [("a.txt", b"1"), ("b.txt", b"2")]), tmp_path / "out")
    assert sorted(p.name for p in root.iterdir()) == ["a.txt", "b.txt"]


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "..\\evil", "C:/evil"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path, name):
    archive = make(tmp_path / "a.zip", [("good", b"1"), (name, b"2")])
    with pytest.raises(DownloadError, match="leaves the folder"):
        unpack_zip(archive, tmp_path / "deep" / "out")
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(DownloadError, match="is a link"):
        unpack_zip(make(tmp_path / "a.zip", [(link, "/etc/passwd")]), tmp_path / "out")


def test_a_bomb_is_refused(tmp_path):
    bomb = make(tmp_path / "a.zip", [(f"zeros-{i}", bytes(40_000_000)) for i in range(3)])
    assert bomb.stat().st_size < 200_000
    with pytest.raises(DownloadError, match="not safe"):
        unpack_zip(bomb, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damage_is_noticed_and_nothing_is_left(tmp_path):
    archive = make(tmp_path / "a.zip", [("film", bytes(range(256)) * 50)])
    content = bytearray(archive.read_bytes())
    content[60] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        unpack_zip(archive, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]
    archive.write_bytes(b"not a zip")
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        unpack_zip(archive, tmp_path / "out")
