"""Blobs are whole, encrypted, and cannot be mistaken for one another."""

import stat

import pytest

from pneumoscope.core.errors import PneumoscopeError
from pneumoscope_clinic.store.blobs import Blobs
from pneumoscope_clinic.store.encryption import Cipher

ONE, TWO = "1" * 32, "2" * 32


@pytest.fixture
def blobs(tmp_path):
    return Blobs(tmp_path / "blobs", Cipher(bytes(32)))


def test_a_blob_comes_back_and_can_be_replaced(blobs):
    assert blobs.get("films", ONE) is None
    blobs.put("films", ONE, b"first")
    blobs.put("films", ONE, b"second")
    assert blobs.get("films", ONE) == b"second"
    assert [name for name, _ in blobs.names("films")] == [ONE]


def test_a_blob_is_encrypted_and_its_owners_alone(blobs):
    blobs.put("films", ONE, b"DICM and a name")
    file = next(path for path in blobs.root.rglob("*") if path.is_file())
    assert b"DICM" not in file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_blob_in_another_ones_place_does_not_open(blobs):
    blobs.put("films", ONE, b"one")
    blobs.put("films", TWO, b"two")
    (blobs.root / "films" / "11" / ONE).replace(blobs.root / "films" / "22" / TWO)
    with pytest.raises(PneumoscopeError, match="cannot be decrypted"):
        blobs.get("films", TWO)


def test_a_write_that_fails_leaves_the_earlier_blob(blobs, monkeypatch):
    blobs.put("films", ONE, b"first")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pneumoscope_clinic.store.blobs.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        blobs.put("films", ONE, b"second")
    monkeypatch.undo()
    assert blobs.get("films", ONE) == b"first"
    assert [name for name, _ in blobs.names("films")] == [ONE]


def test_deleting_twice_is_no_error(blobs):
    blobs.put("maps", ONE, b"x")
    blobs.delete("maps", ONE)
    blobs.delete("maps", ONE)
    assert blobs.get("maps", ONE) is None


@pytest.mark.parametrize(
    ("kind", "name"), [("films", "../../etc/passwd"), ("films", "A" * 32), ("other", ONE), ("films", "")]
)
def test_names_that_are_no_ids(blobs, kind, name):
    with pytest.raises(ValueError, match="no blob is called"):
        blobs.get(kind, name)
