"""A stored result, put together again for whoever shows or sends it.

In: the id of an examined film. Out: heat maps, and a :class:`FilmResult` with pixels and header.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pneumoscope.core.errors import PneumoscopeError
from pneumoscope.imaging.library_warnings import collected_warnings
from pneumoscope_clinic.results.film_result import FilmResult
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import Activation, Film
from pneumoscope_clinic.worker.sandbox import Sandbox

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def pack_maps(maps: dict[str, npt.NDArray[np.uint8]]) -> bytes:
    """Heat maps by class as bytes for the blob ``maps``."""
    out = io.BytesIO()
    np.savez_compressed(out, allow_pickle=False, **maps)
    return out.getvalue()


def heat_maps(store: Store, film_id: str) -> dict[str, npt.NDArray[np.uint8]]:
    """(h, w) uint8 heat maps by pneumonia class, 255 is the strongest; empty where there are none."""
    content = store.blobs.get("maps", film_id)
    if content is None:
        return {}
    with np.load(io.BytesIO(content), allow_pickle=False) as maps:
        return {name: maps[name] for name in maps.files}


def load_film_result(store: Store, film_id: str, sandbox: Sandbox) -> FilmResult:
    """The result of a film with its pixels, which ``sandbox`` decodes, and its header where it is kept.

    Raises:
        PneumoscopeError: the film has no result, or its pixels were deleted.
    """
    with store.read() as session:
        film = session.get(Film, film_id)
        if film is None or film.result is None:
            raise PneumoscopeError("the film has no result", where=film_id)
        result, identity = film.result, film.identity
        card = bundle_card(store, result.bundle_id)
    content = store.blobs.get("films", film_id)
    if content is None:
        raise PneumoscopeError("the film's pixels were deleted", where=film_id)
    header = None
    if identity is not None:
        header = identity_of(store, film_id, identity)
    picture = sandbox.picture(content)
    return FilmResult(
        film_id=film_id,
        record={**result.record, "bundle_card": card},
        picture=picture,
        original_size=(picture.shape[0], picture.shape[1]),
        heat_maps=heat_maps(store, film_id),
        examined_at=result.created_at,
        header=header,
    )


def identity_of(store: Store, film_id: str, identity: bytes) -> Dataset:
    """The header that results need, from ``Film.identity``."""
    from pydicom.dataset import Dataset

    with collected_warnings():  # they may quote values
        return Dataset.from_json(json.loads(store.cipher.decrypt(identity, f"identity/{film_id}")))


def bundle_card(store: Store, bundle_id: str) -> dict[str, object]:
    """The card of a bundle that was active here; empty for another."""
    with store.read() as session:
        row = session.query(Activation).filter_by(bundle_id=bundle_id).order_by(Activation.id.desc()).first()
        return {} if row is None else dict(row.card)
