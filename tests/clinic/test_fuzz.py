"""A short run of ``benchmarks.fuzz``: the same targets, and the same few thousand mutants each time."""

import random
import struct

import numpy as np
import pytest
from benchmarks.fuzz_mutations import mutated
from benchmarks.fuzz_targets import TARGETS, Wrong
from hypothesis import given
from hypothesis import strategies as st

from pneumoscope_clinic.worker.strip_metadata import clean_jpeg_segments

COUNTS = {"film": 400, "results": 15, "frames": 4000, "settings": 300, "rest": 40, "node": 40}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_no_mutant_misbehaves(name):
    target, chance = TARGETS[name], random.Random(20_26)
    seeds = target.seeds()
    with target.opened() as attack:
        for number, seed in enumerate(seeds):
            assert attack(seed) or name in ("frames", "settings", "rest", "node"), f"seed {number} is refused"
        for _ in range(COUNTS[name]):
            mutant = mutated(chance.choice(seeds), chance, seeds, target.words)
            try:
                attack(mutant)
            except Exception as error:
                pytest.fail(f"{type(error).__name__}: {error}; {mutant[:400]!r}")


def test_a_target_notices_what_is_wrong(monkeypatch):
    """The fuzzer would find a de-identification that changes pixels."""
    from pneumoscope_clinic.worker import deidentification

    with TARGETS["film"].opened() as attack:
        seed = TARGETS["film"].seeds()[0]
        assert attack(seed)
    other = TARGETS["film"].seeds()[-1]
    monkeypatch.setattr(deidentification, "deidentified", lambda *_: other)
    with TARGETS["film"].opened() as attack, pytest.raises(Wrong, match="changed the picture"):
        attack(seed)


def test_mutants_are_repeatable_and_different():
    seeds = TARGETS["film"].seeds()
    first = [mutated(seed, random.Random(number), seeds) for number, seed in enumerate(seeds)]
    assert first == [mutated(seed, random.Random(number), seeds) for number, seed in enumerate(seeds)]
    assert sum(mutant != seed for mutant, seed in zip(first, seeds, strict=True)) > 0.9 * len(seeds)


segments = st.lists(
    st.tuples(st.sampled_from([0xC0, 0xC4, 0xDB, 0xE0, 0xE1, 0xED, 0xEE, 0xFE]), st.binary(max_size=40)),
    max_size=6,
)
scans = st.lists(st.tuples(st.binary(max_size=30), segments), min_size=1, max_size=3)


@given(segments, scans, st.binary(max_size=20))
def test_a_cleaned_jpeg_has_its_data_and_nothing_else(before, data, trailer):
    """Scans stay byte for byte; comments and application segments go, wherever they stand."""
    content, kept = b"\xff\xd8", b""
    for found, scan in [(before, None), *[(more, body) for body, more in data]]:
        if scan is not None:
            stuffed = scan.replace(b"\xff", b"\xff\x00")
            content += b"\xff\xda" + struct.pack(">H", 2) + stuffed
            kept += b"\xff\xda" + struct.pack(">H", 2) + stuffed
        for marker, body in found:
            segment = bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body
            content += segment
            kept += segment if marker in (0xC0, 0xC4, 0xDB) else b""
    cleaned = clean_jpeg_segments(content + b"\xff\xd9" + trailer)
    assert cleaned.endswith(b"\xff\xd9")
    assert _without_colour(cleaned) == b"\xff\xd8" + kept + b"\xff\xd9"


def _without_colour(content):
    """Without JFIF and Adobe segments, which may stay when they are what they say."""
    import re

    content = re.sub(rb"\xff\xe0\x00\x10JFIF\0.{7}\0\0", b"", content, flags=re.S)
    return re.sub(rb"\xff\xee..Adobe.{0,7}", b"", content, flags=re.S)


def test_fuzzed_pixels_are_checked():
    from benchmarks.fuzz_targets import _check_pixels

    _check_pixels(np.zeros((2, 2), np.float32))
    for wrong in (
        np.zeros((2, 2)),
        np.full((2, 2), np.nan, np.float32),
        np.full((2, 2), 1.5, np.float32),
        np.zeros(4, np.float32),
    ):
        with pytest.raises(Wrong):
            _check_pixels(wrong)
