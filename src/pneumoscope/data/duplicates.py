"""Find duplicate images: byte for byte, pixel for pixel, or nearly (perceptual hash, then correlation).

Chest radiographs all look alike, so a perceptual hash only proposes pairs; a pair counts when the fine
structure of the two agrees. Groups are kept in ``DATASET/audit/duplicates.json`` for the same images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pneumoscope.core.files import read_json, sha256_bytes, write_json
from pneumoscope.core.records import Preprocessing, Progress
from pneumoscope.data.cache import PixelCache, build_cache
from pneumoscope.data.dataset import Dataset

SCHEMA_VERSION = 1

# Measured on the 5,216 training images of the Guangzhou set: a copy that was re-encoded (JPEG quality 20),
# halved in size, brightened (gamma 1.4) or made noisy keeps at least 0.95 of its fine structure and differs
# in at most 8 bits of the hash; a copy rotated by 1 degree or cropped by 1 % keeps 0.8 to 0.9 and differs in
# at most 12 bits. Two different images never reached 0.73. Stronger crops are not found.
_HASH_DISTANCE = 12
_CORRELATION = 0.8
_FINE_SIDE = 112  # pixels of the grid on which fine structure is compared
_FINE_SIGMA = 4.0  # pixels of that grid; slower changes (chest outline, exposure) are removed
_FINE_MARGIN = 4  # pixels of that grid, left out at the rim, where the filter sees padding
_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Images that are the same. kind: ``exact`` (same bytes or same pixels) or ``near``; paths sorted."""

    kind: str
    paths: tuple[str, ...]


def find_duplicates(dataset: Dataset, *, progress: Progress | None = None) -> tuple[DuplicateGroup, ...]:
    """Groups of exact and of near duplicates; an image can be in one group of each kind.

    The result is stored with the data set and read back as long as its images are the same.

    Args:
        dataset: whose images; its pixel cache is built where it is missing.
        progress: called with the number of images hashed.
    """
    stored = load_duplicates(dataset)
    if stored is not None:
        return stored
    groups = _find(dataset, build_cache(dataset, Preprocessing()), progress)
    content = {**_key(dataset), "groups": [asdict(group) for group in groups]}
    write_json(_file(dataset), content)
    return groups


def load_duplicates(dataset: Dataset) -> tuple[DuplicateGroup, ...] | None:
    """What :func:`find_duplicates` stored for these very images, or None."""
    file = _file(dataset)
    if not file.is_file():
        return None
    stored = read_json(file)
    if {name: stored.get(name) for name in _key(dataset)} != _key(dataset):
        return None
    return tuple(DuplicateGroup(group["kind"], tuple(group["paths"])) for group in stored["groups"])


def _file(dataset: Dataset) -> Path:
    return dataset.directory / "audit" / "duplicates.json"


def _key(dataset: Dataset) -> dict[str, int | str]:
    """What a stored result is valid for."""
    return {"schema_version": SCHEMA_VERSION, "dataset_hash": dataset.hash}


def _find(dataset: Dataset, cache: PixelCache, progress: Progress | None) -> tuple[DuplicateGroup, ...]:
    """Exact groups first; then one image of each is compared with every other."""
    rows = cache.rows(dataset.samples)
    alike: dict[str, list[str]] = defaultdict(list)
    representative: dict[str, int] = {}
    for sample, row in zip(dataset.samples, rows, strict=True):
        content = sha256_bytes(cache.pixels[row].tobytes())
        alike[content].append(sample.path)
        representative.setdefault(content, int(row))
    exact = [DuplicateGroup("exact", tuple(sorted(paths))) for paths in alike.values() if len(paths) > 1]
    contents = list(alike)
    pairs = _near_pairs(cache.pixels, [representative[content] for content in contents], progress)
    near = [
        DuplicateGroup("near", tuple(sorted(path for index in members for path in alike[contents[index]])))
        for members in _components(len(contents), pairs)
    ]
    return tuple(sorted((*exact, *near), key=lambda group: (group.kind, group.paths)))


def _near_pairs(
    pixels: npt.NDArray[np.uint8], rows: Sequence[int], progress: Progress | None
) -> npt.NDArray[np.int64]:
    """Pairs of indices into ``rows`` of images that are nearly the same, (pairs, 2)."""
    hashes = np.zeros(len(rows), np.uint64)
    side = _FINE_SIDE - 2 * _FINE_MARGIN
    fine = np.zeros((len(rows), side * side), np.float16)
    for index, row in enumerate(rows):
        image = Image.fromarray(pixels[row])
        bits = imagehash.phash(image).hash
        hashes[index] = np.packbits(bits).view(np.uint64)[0]
        fine[index] = _fine_structure(image)
        if progress:
            progress(index + 1, len(rows))
    pairs = _close_hashes(hashes)
    agree = [
        np.einsum("ij,ij->i", fine[part[:, 0]], fine[part[:, 1]], dtype=np.float32) >= _CORRELATION
        for part in np.array_split(pairs, max(1, len(pairs) // _BLOCK))
    ]
    return np.asarray(pairs[np.concatenate(agree)], np.int64)


def _fine_structure(image: Image.Image) -> npt.NDArray[np.float32]:
    """What is left of an image without its slow changes, as a vector of length 1 (0 for a blank image)."""
    small = np.asarray(image.resize((_FINE_SIDE, _FINE_SIDE), Image.Resampling.BOX), np.float32)
    fine = (small - gaussian_filter(small, _FINE_SIGMA))[
        _FINE_MARGIN:-_FINE_MARGIN, _FINE_MARGIN:-_FINE_MARGIN
    ]
    fine = (fine - fine.mean()).ravel()
    length = float(np.linalg.norm(fine))
    return np.asarray(fine / length if length > 0 else fine, np.float32)


def _close_hashes(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Pairs (i < j) whose hashes differ in at most ``_HASH_DISTANCE`` bits, (pairs, 2)."""
    found = [np.zeros((0, 2), np.int64)]
    for start in range(0, len(hashes), _BLOCK):
        distance = np.bitwise_count(hashes[start : start + _BLOCK, None] ^ hashes[None, start:])
        pairs = np.argwhere(distance <= _HASH_DISTANCE) + start
        found.append(pairs[pairs[:, 0] < pairs[:, 1]])
    return np.concatenate(found)


def _components(count: int, pairs: npt.NDArray[np.int64]) -> Iterable[list[int]]:
    """Groups of two and more indices that ``pairs`` connect."""
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    members: dict[int, list[int]] = defaultdict(list)
    for index in np.unique(pairs):
        members[int(labels[index])].append(int(index))
    return members.values()
