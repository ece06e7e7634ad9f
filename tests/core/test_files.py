"""Files hold the whole content or did not change."""

import errno
import math
import os
import stat
from pathlib import Path

import pytest

from pneumoscope.core.files import (
    atomic_path,
    read_json,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_json,
    write_text,
)

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4, example B.1


def test_hashes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_bytes(b"abc") == sha256_file(tmp_path / "abc") == ABC


def test_folders_are_made_and_nothing_else_is_left(tmp_path):
    write_bytes(tmp_path / "a" / "b" / "c.bin", b"\x00\x01")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["c.bin"]
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"\x00\x01"


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    file = tmp_path / "figure.png"
    write_text(file, "old")

    def interrupted():
        with atomic_path(file) as temporary:
            assert temporary.suffix == ".png"
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


def test_a_reader_sees_the_old_content_until_the_end(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with atomic_path(file) as temporary:
        temporary.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_permissions_are_those_of_an_ordinary_file(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_json_keeps_order_and_letters(tmp_path):
    content = {"b": [1, 2.5, None], "a": "pneumonía"}
    write_json(tmp_path / "x.json", content)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text.index('"b"') < text.index('"a"')
    assert "pneumonía" in text
    assert text.endswith("}\n")
    assert read_json(tmp_path / "x.json") == content


def test_json_refuses_what_is_not_a_number_and_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "x.json", {"auc": 0.9})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"auc": math.nan})
    assert read_json(tmp_path / "x.json") == {"auc": 0.9}


def test_errors_name_the_file_that_was_to_be_written(tmp_path):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("the system has no /dev/full")

    def write_and_fill(path):
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"x")
            full.write_bytes(b"more than there is room for")

    with pytest.raises(OSError, match="No space left") as caught:
        write_and_fill(tmp_path / "a.txt")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a.txt"))
    with pytest.raises(OSError, match=r"'/proc/a\.txt'") as caught:
        write_text(Path("/proc/a.txt"), "x")
    assert caught.value.filename == "/proc/a.txt"
    with pytest.raises(ConnectionResetError) as caught, atomic_path(tmp_path / "a.txt"):
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
    assert caught.value.filename is None
    assert list(tmp_path.iterdir()) == []
