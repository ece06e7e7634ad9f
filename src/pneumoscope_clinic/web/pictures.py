"""Pictures for the screen: drawn by a worker when first asked for, kept until the image's pixels are deleted.

Untrusted bytes are decoded in the sandbox process and not here.
"""

from __future__ import annotations

import io
from datetime import timedelta

import numpy as np
import numpy.typing as npt
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from pneumoscope.core.errors import InputError, NotFoundError, PneumoscopeError
from pneumoscope_clinic.results.stored_result import StoredResult, heat_maps, load_result
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.notification import notify
from pneumoscope_clinic.store.queue import THE_FILMS, add_job
from pneumoscope_clinic.store.tables import Film, Job, now

_PAUSE = timedelta(minutes=1)
"""From a drawing that failed through a fault of ours to the next: who asks meanwhile is answered at once."""


async def drawn(request: Request, film_id: str) -> None:
    """Wait until the image is drawn, at most ``limits.film_seconds``; no thread waits with it.

    Args:
        request: whose application's.
        film_id: of an image that the caller may see.

    Raises:
        InputError: the image's pixels were deleted.
        NotFoundError: it is not examined.
        PneumoscopeError: no worker drew it in time.
    """
    store: Store = request.app.state.store
    if not await run_in_threadpool(_ask, store, film_id):
        return
    seconds = store.settings.limits.film_seconds
    if not await request.app.state.waiting.settled(film_id, "picture", seconds):
        raise PneumoscopeError(
            "no worker drew the image in time", where=film_id, remedy="try again in a minute"
        )


def picture(store: Store, film_id: str) -> bytes:
    """The image as grey JPEG on its original grid, once it is :func:`drawn`.

    Raises:
        InputError: the image could not be drawn.
    """
    found = store.blobs.get("pictures", film_id)
    if found is None:
        raise InputError("the image cannot be drawn", where=film_id)
    return found


def _ask(store: Store, film_id: str) -> bool:
    """Queue the drawing, again if an earlier one's is gone or it failed by us; False where there is one."""
    if store.blobs.get("pictures", film_id) is not None:
        return False
    with store.write() as session:
        film = session.get(Film, film_id)
        if film is None or film.pixels_gone:
            raise InputError("the image's pixels were deleted", where=film_id)
        if film.result is None:  # a failed job would stay failed when the image is examined later
            raise NotFoundError("there is no picture of an image that is not examined", where=film_id)
        drawing = select(Job).where(Job.film_id == film_id, Job.kind == "picture")
        job = session.scalar(drawing)
        if job is None:
            add_job(session, film_id, "picture")
        elif job.state == "done" or _may_try_again(job):
            job.state, job.due_at, job.attempts, job.finished_at = "waiting", now(), 0, None
    notify(store.settings.directory, "work")
    return True


def _may_try_again(job: Job) -> bool:
    if job.state != "failed" or (job.problem or {}).get("fault") == THE_FILMS:
        return False
    return job.finished_at is None or job.finished_at < now() - _PAUSE


def heat_map_png(store: Store, film_id: str, name: str) -> bytes | None:
    """The heat map of a class as 8-bit grey PNG, 255 the strongest evidence; None where there is none."""
    from PIL import Image

    found = heat_maps(store, film_id).get(name)
    if found is None:
        return None
    out = io.BytesIO()
    Image.fromarray(found).save(out, "PNG")
    return out.getvalue()


def illustrated_result(store: Store, film_id: str) -> StoredResult:
    """A result for the report, with the image and without the patient's header.

    Raises:
        InputError: as :func:`picture`. PneumoscopeError: there is no result.
    """
    from PIL import Image

    def image() -> npt.NDArray[np.uint8]:
        with Image.open(io.BytesIO(picture(store, film_id))) as jpeg:
            return np.array(jpeg.convert("L"))

    return load_result(store, film_id, image)
