"""Stored result: what the clinic keeps of one examined image, as every report of it needs it.

DICOM objects, FHIR, the one-page report and the pages are made from :class:`StoredResult` and nothing else.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pneumoscope.core.errors import PneumoscopeError
from pneumoscope.core.records import FloatArray, freeze
from pneumoscope.imaging.decoding import collected_warnings
from pneumoscope_clinic.image_errors import image_error
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import Activation, Film

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class StoredResult:
    """One examined image.

    Attributes:
        film_id: our random id (32 hexadecimal digits).
        document: :func:`pneumoscope.inference.examination.record` of the examination, with
            ``limitations`` and ``versions``.
        original_size: rows and columns of the image as stored.
        examined_at: with a time zone.
        bundle_card: of the bundle that answered; empty where it is no longer known.
        film: (h, w) uint8, bright = dense, on the original pixel grid or smaller; None where nobody asked
            for pixels.
        heat_maps: by pneumonia class, each (h, w) uint8, 255 = 1.0; any size, it covers the whole image;
            empty for one that was not explained.
        header: the source's DICOM header with real identities and without Pixel Data; None for JPEG and PNG.
    """

    film_id: str
    document: Mapping[str, Any]
    original_size: tuple[int, int]
    examined_at: datetime
    bundle_card: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    image: Grey | None = None
    heat_maps: Mapping[str, Grey] = field(default_factory=lambda: MappingProxyType({}))
    header: Dataset | None = None

    def __post_init__(self) -> None:
        if self.examined_at.tzinfo is None:
            raise ValueError("examined_at has no time zone")
        arrays = {**self.heat_maps} if self.image is None else {"image": self.image, **self.heat_maps}
        for name, array in arrays.items():
            if array.ndim != 2 or array.dtype != np.uint8:
                raise ValueError(f"{name} is {array.dtype} of {array.ndim} dimensions, not uint8 of 2")
            freeze(array)

    @property
    def bundle_id(self) -> str:
        """Which bundle answered, ``name@hash``."""
        return str(self.document["bundle"])

    @property
    def refused(self) -> bool:
        """The gate refused the image: there is no probability."""
        return self.document["probability"] is None

    @property
    def answered(self) -> bool:
        """POSITIVE or NEGATIVE; an abstention has a probability and no answer."""
        return self.document["decision"] in ("POSITIVE", "NEGATIVE")

    @property
    def target(self) -> str | None:
        """The pneumonia class whose heat map comes first; None for an image that was not explained."""
        explanation = self.document["explanation"]
        return None if explanation is None else str(explanation["target"])

    @property
    def heat_map(self) -> Grey | None:
        """The map of :attr:`target`; None where there is none."""
        return None if self.target is None else self.heat_maps.get(self.target)


def on_grid(heat_map: Grey, size: tuple[int, int]) -> FloatArray:
    """A stored heat map as (rows, columns) float32 in [0, 1], stretched over a grid of ``size``."""
    from PIL import Image

    smooth = Image.fromarray(heat_map).convert("F")
    if heat_map.shape != size:
        smooth = smooth.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(np.asarray(smooth) / np.float32(255))


def load_result(
    store: Store, film_id: str, image: Callable[[], Grey] | None = None, *, identified: bool = False
) -> StoredResult:
    """The result of an examined image.

    Args:
        store: the clinic's.
        film_id: which.
        film: decodes it; None leaves pixels and heat maps out.
        identified: with the header of the source, where it is kept.

    Raises:
        PneumoscopeError: there is no result, or as ``image`` does.
    """
    with store.read() as session:
        film = session.get(Film, film_id)
        if film is None or film.result is None:
            raise PneumoscopeError("the image has no result", where=film_id)
        result, identity, facts = film.result, film.identity, film.facts
    return StoredResult(
        film_id=film_id,
        document=result.record,
        original_size=(facts["rows"], facts["columns"]),
        examined_at=result.created_at,
        bundle_card=bundle_card(store, result.bundle_id),
        image=None if image is None else image(),
        heat_maps={} if image is None else heat_maps(store, film_id),
        header=_header(store, film_id, identity) if identified and identity is not None else None,
    )


def stored_image(store: Store, film_id: str, decode: Callable[[bytes], Grey]) -> Grey:
    """The de-identified image, decoded by a sandbox.

    Raises:
        PneumoscopeError: it was deleted, or as ``decode`` does.
    """
    content = store.blobs.get("films", film_id)
    if content is None:
        raise image_error(PneumoscopeError, "pixels-deleted")
    return decode(content)


def pack_maps(maps: Mapping[str, Grey]) -> bytes:
    """Heat maps by class as bytes for the blob ``maps``."""
    out = io.BytesIO()
    np.savez_compressed(out, allow_pickle=False, **maps)
    return out.getvalue()


def heat_maps(store: Store, film_id: str) -> dict[str, Grey]:
    """(h, w) uint8 heat maps by pneumonia class, 255 is the strongest; empty where there are none."""
    content = store.blobs.get("maps", film_id)
    if content is None:
        return {}
    with np.load(io.BytesIO(content), allow_pickle=False) as maps:
        return {name: maps[name] for name in maps.files}


def bundle_card(store: Store, bundle_id: str) -> dict[str, Any]:
    """The card of a bundle that was active here; empty for another."""
    with store.read() as session:
        row = session.query(Activation).filter_by(bundle_id=bundle_id).order_by(Activation.id.desc()).first()
        return {} if row is None else dict(row.card)


def _header(store: Store, film_id: str, identity: bytes) -> Dataset:
    """The source's header, from ``Film.identity``."""
    from pydicom.dataset import Dataset

    with collected_warnings():  # they may quote values
        return Dataset.from_json(json.loads(store.cipher.decrypt(identity, f"identity/{film_id}")))
