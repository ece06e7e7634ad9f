"""Inputs that are almost right: a stranger's bytes get furthest into a parser when its structure still holds.

In: seed inputs and a random generator. Out: mutants. The generic mutations know nothing; those of DICOM, PNG,
JPEG and TIFF change one element, chunk, segment or tag and leave the rest readable; those of text insert
words that the grammar knows.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence

__all__ = ["mutated"]

INTERESTING = (
    0,
    1,
    2,
    7,
    8,
    15,
    16,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
)
_LONG_VRS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT")  # PS3.5 7.1.2
_VRS = (
    *_LONG_VRS,
    b"AE",
    b"AS",
    b"AT",
    b"CS",
    b"DA",
    b"DS",
    b"DT",
    b"FD",
    b"FL",
    b"IS",
    b"LO",
    b"LT",
    b"PN",
    b"SH",
    b"SL",
    b"SS",
    b"ST",
    b"SV",
    b"TM",
    b"UI",
    b"UL",
    b"US",
    b"UV",
    b"??",
    b"\0\0",
)
_TAGS = (
    0x00020010,
    0x00080005,
    0x00080018,
    0x00100010,
    0x00180015,
    0x00185101,
    0x00280002,
    0x00280004,
    0x00280006,
    0x00280008,
    0x00280010,
    0x00280011,
    0x00280034,
    0x00280100,
    0x00280101,
    0x00280102,
    0x00280103,
    0x00280120,
    0x00280121,
    0x00281050,
    0x00281051,
    0x00281052,
    0x00281053,
    0x00281056,
    0x00281101,
    0x00281201,
    0x00283000,
    0x00283010,
    0x20500020,
    0x60003000,
    0x7FE00010,
    0x7FE00008,
    0x00091001,
    0xFFFEE000,
    0xFFFEE00D,
    0xFFFCFFFC,
)
_VALUES = (
    b"",
    b"0",
    b"-1",
    b"1",
    b"16",
    b"17",
    b"1e400",
    b"nan",
    b"inf",
    b"-0",
    b"1,5",
    b"1\\2",
    b"\\\\",
    b"\xff\xfe",
    b"MONOCHROME1 ",
    b"MONOCHROME2 ",
    b"RGB ",
    b"YBR_FULL_422",
    b"PALETTE COLOR ",
    b"INVERSE ",
    b"SIGMOID ",
    b"1.2.840.10008.1.2.4.50",
    b"1.2.840.10008.1.2.4.90",
    b"1.2.840.10008.1.2.5",
    b"1.2.840.10008.1.2.1.99",
    b"ISO 2022 IR 87",
    b"ISO_IR 192",
    b"\x1b$B\x1b(B",
    b"A" * 65,
    b"^" * 30,
    b"20241399",
    b"999Y",
)

Mutation = Callable[[bytes, random.Random], bytes]


def mutated(
    content: bytes, chance: random.Random, seeds: Sequence[bytes], words: Sequence[bytes] = ()
) -> bytes:
    """One mutant of ``content``: one to four mutations that fit it.

    Args:
        content: a seed or a mutant.
        chance: decides everything.
        seeds: parts of which may get into the mutant.
        words: tokens of a textual input; none for an image.
    """
    for _ in range(1 + min(3, int(chance.expovariate(0.9)))):
        kind = _structured(content)
        if words and chance.random() < 0.6:
            content = _insert_word(content, chance, words)
        elif kind is not None and chance.random() < 0.7:
            content = kind(content, chance)
        elif chance.random() < 0.1:
            content = _splice(content, chance.choice(seeds), chance)
        else:
            content = chance.choice(_GENERIC)(content, chance)
    return content


def _structured(content: bytes) -> Mutation | None:
    if content[128:132] == b"DICM":
        return _dicom
    if content.startswith(b"\x89PNG"):
        return _png
    if content.startswith(b"\xff\xd8"):
        return _jpeg
    return _tiff if content[:4] in (b"II*\0", b"MM\0*") else None


def _flip(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 4, 16))):
        if changed:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _number(content: bytes, chance: random.Random) -> bytes:
    """An interesting number in place of some bytes."""
    form = chance.choice(("B", "<H", ">H", "<I", ">I"))
    size = struct.calcsize(form)
    if len(content) < size:
        return content
    at = chance.randrange(len(content) - size + 1)
    value = chance.choice(INTERESTING) & ((1 << 8 * size) - 1)
    return content[:at] + struct.pack(form, value) + content[at + size :]


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _remove(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content) + 1)
    return content[:at] + content[at + chance.choice((1, 2, 4, 16, 256)) :]


def _repeat(content: bytes, chance: random.Random) -> bytes:
    at, size = chance.randrange(len(content) + 1), chance.choice((1, 2, 8, 64, 512))
    return content[:at] + content[at : at + size] * chance.choice((2, 2, 3, 50)) + content[at + size :]


def _insert(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content) + 1)
    return content[:at] + chance.randbytes(chance.choice((1, 2, 4, 33))) + content[at:]


def _splice(content: bytes, other: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)] + other[chance.randrange(len(other) + 1) :]


def _insert_word(content: bytes, chance: random.Random, words: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(content) + 1)
    return content[:at] + chance.choice(words) + content[at + chance.choice((0, 0, 1, 8)) :]


_GENERIC: tuple[Mutation, ...] = (_flip, _flip, _number, _cut, _remove, _repeat, _insert)


def _dicom(content: bytes, chance: random.Random) -> bytes:
    """Change, remove, repeat or add one element of an explicit little-endian data set."""
    elements = _elements(content)
    if not elements:
        return _flip(content, chance)
    start, value, end = chance.choice(elements)
    long = content[start + 4 : start + 6] in _LONG_VRS
    match chance.randrange(8):
        case 0:
            return content[:start] + content[end:]
        case 1:
            return content[:end] + content[start:end] * chance.choice((1, 1, 40)) + content[end:]
        case 2:
            return content[: start + 4] + chance.choice(_VRS) + content[start + 6 :]
        case 3:
            form, largest = ("<I", 2**32 - 1) if long else ("<H", 2**16 - 1)
            at = value - struct.calcsize(form)
            return content[:at] + struct.pack(form, chance.choice(INTERESTING) & largest) + content[value:]
        case 4:
            return content[:start] + _tag(chance) + content[start + 4 :]
        case 5:
            tag, vr = _tag(chance), chance.choice(_VRS)
            return content[:start] + _element(tag, vr, chance.choice(_VALUES)) + content[start:]
        case 6:
            number = struct.pack("<H", chance.choice(INTERESTING) & 0xFFFF) * chance.choice((1, 1, 2, 3))
            return content[:start] + _element(content[start : start + 4], b"US", number) + content[end:]
        case _:
            made = _element(
                content[start : start + 4], content[start + 4 : start + 6], chance.choice(_VALUES)
            )
            return content[:start] + made + content[end:]


def _tag(chance: random.Random) -> bytes:
    tag = chance.choice(_TAGS)
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF)


def _element(tag: bytes, vr: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    length = struct.pack("<HI", 0, len(value)) if vr in _LONG_VRS else struct.pack("<H", len(value))
    return tag + vr + length + value


def _elements(content: bytes) -> list[tuple[int, int, int]]:
    """Start, start of the value, and end of each element, of items of sequences, too (PS3.5 7.1)."""
    found, at = [], 132
    while at + 8 <= len(content):
        vr = content[at + 4 : at + 6]
        if content[at : at + 2] == b"\xfe\xff":  # item or delimiter
            at += 8
            continue
        if vr in _LONG_VRS and at + 12 <= len(content):
            value, length = at + 12, struct.unpack_from("<I", content, at + 8)[0]
        else:
            value, length = at + 8, struct.unpack_from("<H", content, at + 6)[0]
        inside = vr == b"SQ" or length == 2**32 - 1
        end = value if inside else value + length
        if end > len(content):
            break
        found.append((at, value, end))
        at = end
    return found


def _png(content: bytes, chance: random.Random) -> bytes:
    """Change one chunk and make its check sum right again; IDAT is compressed anew now and then."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        length = struct.unpack_from(">I", content, at)[0]
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks:
        return _flip(content, chance)
    index = chance.randrange(len(chunks))
    name, body = chunks[index]
    match chance.randrange(5):
        case 0:
            del chunks[index]
        case 1:
            chunks.insert(index, chunks[index])
        case 2:
            chunks.insert(
                index, (chance.choice((b"tEXt", b"iTXt", b"tRNS", b"eXIf", b"PLTE", b"acTL")), b"\0\1\2")
            )
        case 3 if name == b"IDAT":
            chunks[index] = (name, zlib.compress(chance.randbytes(50) * chance.choice((1, 100, 2000))))
        case _:
            chunks[index] = (name, chance.choice((_flip, _number, _remove))(body, chance))
    return content[:8] + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _jpeg(content: bytes, chance: random.Random) -> bytes:
    """Change, remove, repeat or add one segment before the first scan."""
    segments, at = [], 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0xD9:
        end = at + 2 + struct.unpack_from(">H", content, at + 2)[0]
        segments.append((at, end))
        if content[at + 1] == 0xDA:
            break
        at = end
    if not segments:
        return _flip(content, chance)
    start, end = chance.choice(segments)
    match chance.randrange(5):
        case 0:
            return content[:start] + content[end:]
        case 1:
            return content[:end] + content[start:end] + content[end:]
        case 2:
            body = chance.randbytes(chance.choice((2, 14, 40)))
            marker = chance.choice((0xE0, 0xE1, 0xE2, 0xEE, 0xFE, 0xC0, 0xC4, 0xDB, 0xDD, 0xD8))
            return (
                content[:start]
                + bytes((0xFF, marker))
                + struct.pack(">H", len(body) + 2)
                + body
                + content[start:]
            )
        case 3:
            return content[: start + 1] + bytes((chance.randrange(0xC0, 0xFF),)) + content[start + 2 :]
        case _:
            body = chance.choice((_flip, _number))(content[start + 4 : end], chance)
            return content[: start + 4] + body + content[end:]


def _tiff(content: bytes, chance: random.Random) -> bytes:
    """Change one field of one entry of the first image file directory (TIFF 6.0 section 2)."""
    order = "<" if content[:1] == b"I" else ">"
    if len(content) < 8:
        return _flip(content, chance)
    directory = struct.unpack_from(order + "I", content, 4)[0]
    if directory + 2 > len(content):
        return _flip(content, chance)
    entries = struct.unpack_from(order + "H", content, directory)[0]
    at = directory + 2 + 12 * chance.randrange(max(1, entries))
    if at + 12 > len(content):
        return _flip(content, chance)
    field, form = chance.choice(((0, "H"), (2, "H"), (4, "I"), (8, "I"), (8, "H")))
    value = chance.choice(INTERESTING) & (0xFFFF if form == "H" else 0xFFFFFFFF)
    changed = bytearray(content)
    struct.pack_into(order + form, changed, at + field, value)
    return bytes(changed)
