"""Label review: the images worth a second look as a page of thumbnails, ``review.html``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pneumoscope.core.files import write_text
from pneumoscope.core.records import Progress
from pneumoscope.data.dataset import Dataset
from pneumoscope.evaluation.label_review import ReviewFilm, ReviewKind
from pneumoscope.reporting.pages import render
from pneumoscope.reporting.thumbnails import film as thumbnail

_EXPLAINED = {
    ReviewKind.LABEL: "Networks that did not see these images count them as another class; the most "
    "suspicious first.",
    ReviewKind.HARD: "Their label is plausible, but the networks were least sure of it.",
}


def write_review_page(
    films: Sequence[ReviewFilm],
    dataset: Dataset,
    directory: Path,
    *,
    blind: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write ``review.html`` into ``directory`` and return it.

    Args:
        films: in the order of the page.
        dataset: where they lie.
        directory: made when it is missing.
        blind: show neither labels nor why an image is shown.
        progress: called with the number of images drawn.

    Raises:
        UnreadableFileError: an image cannot be read any more.
    """
    entries: list[tuple[int, ReviewFilm, bytes]] = []
    for number, film in enumerate(films, 1):
        entries.append((number, film, thumbnail(dataset.root / film.path)))
        if progress:
            progress(number, len(films))
    sections = [
        {"title": f"{kind.value.capitalize()}s", "text": text, "entries": own}
        for kind, text in _EXPLAINED.items()
        if (own := [entry for entry in entries if entry[1].kind is kind])
    ]
    if blind:
        sections = [{"title": "Images", "text": "Labels are hidden.", "entries": entries}]
    page = directory / "review.html"
    write_text(
        page, render("review.html", sections=sections, dataset=dataset.name, blind=blind, count=len(films))
    )
    return page
