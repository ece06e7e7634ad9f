"""Images from a PACS by DICOMweb query, each one once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from sqlalchemy import select

from pneumoscope.core.errors import DeliveryError, InputError
from pneumoscope.core.records import Progress
from pneumoscope_clinic.dicom.association import film_classes
from pneumoscope_clinic.dicom.http_clients import FilmReference, WebSource
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import Film
from pneumoscope_clinic.worker.intake import Sender, receive


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did: images taken, images that were here before, and those that the server did not give."""

    taken: int
    known: int
    failed: int


def study_query(pairs: Mapping[str, str], since: date | None) -> dict[str, str]:
    """The query of studies: ``pairs``, and a range of dates that starts at ``since`` (PS3.4 C.2.2.2.5)."""
    return {**pairs, "StudyDate": f"{since:%Y%m%d}-"} if since is not None else dict(pairs)


def pull(
    store: Store,
    source: WebSource,
    query: Mapping[str, str],
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Pulled:
    """Take the images of all studies that match ``query``.

    An image that is not given, is empty or too large, is counted and left; the next pull tries it again.

    Args:
        store: takes the images.
        source: gives them.
        query: of studies, keyword or tag to value.
        limit: most images to take.
        progress: called after each image; the total is not known before the end.

    Raises:
        DeliveryError: the server cannot be reached, or refuses the query.
    """
    sender = Sender("dicomweb", None, "dicomweb")
    taken = known = failed = 0
    for film in source.find(query, film_classes(store.settings.dicom)):
        if limit is not None and taken >= limit:
            break
        if is_known(store, film):
            known += 1
        else:
            try:
                receive(store, source.fetch(film), sender, instance_uid=film.instance_uid)
            except InputError as error:
                if isinstance(error, DeliveryError) and error.destination_down:
                    raise
                failed += 1
            else:
                taken += 1
        if progress is not None:
            done = taken + known + failed
            progress(done, done)
    return Pulled(taken, known, failed)


def is_known(store: Store, film: FilmReference) -> bool:
    """Whether an image of that SOP Instance UID is here, whichever way it came."""
    key = store.cipher.pseudonym(film.instance_uid, "instance")
    with store.read() as session:
        return session.scalar(select(Film.id).where(Film.instance_key == key).limit(1)) is not None
