"""What is sealed opens with the same key for the same purpose only, and pseudonyms are stable."""

import stat
import threading

import pytest

from pneumoscope.core.errors import ConfigError, PneumoscopeError
from pneumoscope_clinic.store.encryption import Cipher, open_cipher

KEY = bytes(range(32))


def test_what_is_sealed_opens_again():
    cipher = Cipher(KEY)
    sealed = cipher.encrypt(b"Doe^Jane", "identity/1")
    assert b"Doe" not in sealed
    assert cipher.decrypt(sealed, "identity/1") == b"Doe^Jane"
    assert cipher.encrypt(b"Doe^Jane", "identity/1") != sealed


@pytest.mark.parametrize("change", ["key", "purpose", "first", "last", "short"])
def test_anything_else_does_not_open(change):
    sealed = bytearray(Cipher(KEY).encrypt(b"content", "films/1"))
    key, purpose = KEY, "films/1"
    if change == "key":
        key = bytes(32)
    elif change == "purpose":
        purpose = "films/2"
    elif change == "short":
        sealed = sealed[:5]
    else:
        sealed[0 if change == "first" else -1] ^= 1
    with pytest.raises(PneumoscopeError, match="cannot be decrypted"):
        Cipher(key).decrypt(bytes(sealed), purpose)


def test_pseudonyms_are_stable_and_keyed():
    cipher = Cipher(KEY)
    name = cipher.pseudonym("1.2.3", "study")
    assert name == Cipher(KEY).pseudonym("1.2.3", "study")
    assert (
        len({name, cipher.pseudonym("1.2.3", "patient"), Cipher(bytes(32)).pseudonym("1.2.3", "study")}) == 3
    )


def test_a_key_is_made_once_for_its_owner(tmp_path):
    file = tmp_path / "deep" / "secret.key"
    sealed = open_cipher(file).encrypt(b"x", "y")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert open_cipher(file).decrypt(sealed, "y") == b"x"
    assert sorted(path.name for path in file.parent.iterdir()) == ["secret.key"]


def test_two_that_make_the_key_at_once_have_the_same(tmp_path):
    names = []

    def start():
        names.append(open_cipher(tmp_path / "secret.key").pseudonym("a", "b"))

    threads = [threading.Thread(target=start) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 16
    assert len(set(names)) == 1


@pytest.mark.parametrize("content", ["", "abc", "zz" * 32, "ab" * 31])
def test_a_file_that_is_no_key(tmp_path, content):
    (tmp_path / "secret.key").write_text(content)
    with pytest.raises(ConfigError, match="not a key"):
        open_cipher(tmp_path / "secret.key")
