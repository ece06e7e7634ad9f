"""Encryption at rest (AES-256-GCM, NIST SP 800-38D) and pseudonyms (HMAC-SHA-256, RFC 2104).

Everything that could name a patient is encrypted or replaced here. The key file is made at first use,
readable by its owner alone.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pneumoscope.core.errors import ConfigError, PneumoscopeError

_KEY_BYTES, _NONCE_BYTES = 32, 12


class Cipher:
    """Encrypts and decrypts bytes, and makes pseudonyms, with keys derived from one.

    Args:
        key: 32 random bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._aes = AESGCM(_derived(key, b"seal"))
        self._names = _derived(key, b"names")
        self.audit_key = _derived(key, b"audit")

    def encrypt(self, content: bytes, purpose: str) -> bytes:
        """``nonce + ciphertext + tag``; ``purpose`` (for instance an image's id) is authenticated with it."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._aes.encrypt(nonce, content, purpose.encode())

    def decrypt(self, encrypted: bytes, purpose: str) -> bytes:
        """What :meth:`encrypt` was given.

        Raises:
            PneumoscopeError: another key or purpose, or the bytes were altered.
        """
        try:
            return self._aes.decrypt(encrypted[:_NONCE_BYTES], encrypted[_NONCE_BYTES:], purpose.encode())
        except (InvalidTag, ValueError) as error:  # ValueError: too short to hold a nonce
            raise PneumoscopeError(
                "stored data cannot be decrypted",
                expected="the key that it was stored with, and bytes that nobody changed",
                remedy="restore the key file of this data directory from the backup",
            ) from error

    def pseudonym(self, value: str, kind: str) -> str:
        """64 hexadecimal digits for ``value``; the same each time, and different for each ``kind``."""
        return hmac.new(self._names, f"{kind}\0{value}".encode(), hashlib.sha256).hexdigest()


def open_cipher(key_file: Path) -> Cipher:
    """The cipher of ``key_file``; the file is made, with mode 0600, when it is missing.

    Raises:
        ConfigError: the file cannot be read or made, or is no key.
    """
    try:
        key_file.parent.mkdir(parents=True, exist_ok=True)
        _make(key_file)
        text = key_file.read_text(encoding="ascii").strip()
        key = bytes.fromhex(text)
    except OSError as error:
        raise ConfigError(f"the key file cannot be used: {error.strerror}", where=key_file) from error
    except ValueError as error:
        raise ConfigError("not a key", where=key_file, expected="64 hexadecimal digits") from error
    if len(key) != _KEY_BYTES:
        raise ConfigError("not a key", where=key_file, expected="64 hexadecimal digits")
    return Cipher(key)


def _make(key_file: Path) -> None:
    """Write a new key unless there is one; of two processes that try, one wins and both use its key."""
    if key_file.exists():
        return
    temporary = key_file.with_name(f".{key_file.name}.{os.urandom(8).hex()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(os.urandom(_KEY_BYTES).hex() + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(temporary, key_file)
        except FileExistsError:
            return
    finally:
        temporary.unlink()


def _derived(key: bytes, purpose: bytes) -> bytes:
    """A key of its own for each purpose (the expand step of HKDF, RFC 5869, for one block)."""
    return hmac.new(key, purpose + b"\x01", hashlib.sha256).digest()
