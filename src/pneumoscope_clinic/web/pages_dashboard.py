"""Pages of the dashboard (volume, results, agreement with readers, drift, alarms) and of the bundle."""

from __future__ import annotations

import itertools
import re
from functools import lru_cache
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import RedirectResponse, Response
from markdown_it import MarkdownIt
from markupsafe import Markup

from pneumoscope.core.records import Estimate
from pneumoscope.reporting.bundle_card import bundle_card
from pneumoscope_clinic.monitoring.alarms import acknowledge
from pneumoscope_clinic.monitoring.dashboard import NOTES, bundle_document, dashboard
from pneumoscope_clinic.monitoring.records import Dashboard, DriftRow
from pneumoscope_clinic.store.bundles import activations, active_bundle
from pneumoscope_clinic.store.viewers import Viewer
from pneumoscope_clinic.web.access import RowNumber, check_csrf, page_viewer, store_of
from pneumoscope_clinic.web.rendering import page, reader_words
from pneumoscope_clinic.web.translation import Words

router = APIRouter(include_in_schema=False)

LONGEST_DAYS = 365

Reader = Annotated[Viewer, Depends(page_viewer)]


@router.get("/dashboard")
def dashboard_page(
    request: Request, viewer: Reader, days: Annotated[int, Query(ge=1, le=LONGEST_DAYS)] = 30
) -> Response:
    """Figures of the last days."""
    # Its colours are those of the figures, and matplotlib comes with them.
    from pneumoscope_clinic.monitoring.charts import agreement_chart, volume_chart

    store, of = store_of(request), reader_words(request, viewer)
    board = dashboard(store, days)
    return page(
        request,
        "dashboard.html",
        viewer,
        here="dashboard",
        days=days,
        board=board,
        open_alarms=[_alarm(alarm, board, of) for alarm in board.alarms],
        may_acknowledge=viewer.has_role("reviewer"),
        cards=_cards(board, of),
        volume=volume_chart(board.days, of),
        agreement=agreement_chart(board.agreement_by_week, store.settings.monitoring.min_agreement, of),
        drift=[_drift(row, of) for row in board.drift],
        drift_note=_drift_note(board, of),
        notes=_notes(board, of),
    )


@router.post("/alarms/{alarm_id}/acknowledge", dependencies=[Depends(check_csrf)])
def acknowledge_alarm(request: Request, alarm_id: RowNumber, viewer: Reader) -> Response:
    """Say that somebody has seen an alarm."""
    viewer.require(role="reviewer")
    acknowledge(store_of(request), alarm_id, viewer.name)
    return RedirectResponse("/dashboard", status_code=303)


@router.get("/bundle")
def bundle_page(request: Request, viewer: Reader) -> Response:
    """The bundle in use, and its card."""
    store = store_of(request)
    active = active_bundle(store)
    limits, card = _card(active.location, active.bundle_id)
    return page(
        request, "bundle.html", viewer, here="bundle",
        active=active, history=activations(store, 20), limits=limits, card=card,
    )  # fmt: skip


@lru_cache(maxsize=4)
def _card(location: str, bundle_id: str) -> tuple[tuple[str, ...], Markup]:
    """Limits and card of a bundle; both empty when its directory is gone or holds another one."""
    document = bundle_document(location)
    if document is None or document["id"] != bundle_id:
        return (), Markup("")
    return tuple(document["limitations"]), _html(bundle_card(document, location))


def _html(markdown: str) -> Markup:
    """Markdown as HTML; tags in it stay text, headings go one level down, wide tables scroll."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(markdown)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 1)}"
    html = str(reader.renderer.render(tokens, reader.options, {}))
    number = itertools.count(1)
    table = '<div class="scroll" tabindex="0" role="group" aria-label="Table {}"><table>'
    html = re.sub("<table>", lambda _: table.format(next(number)), html)
    html = html.replace("</table>", "</table></div>")
    return Markup(html)  # nosec B704  # escaped by markdown-it


def _alarm(alarm: Any, board: Dashboard, of: Words) -> dict[str, Any]:
    titles = {
        "drift": of("Drift"),
        "agreement": of("Agreement with readers"),
        "queue": of("Images wait"),
        "failures": of("Work was given up"),
    }
    return {
        "id": alarm.id,
        "title": titles.get(alarm.kind.split(":")[0], alarm.kind),
        "created_at": alarm.created_at,
        "message": _alarm_message(alarm, board, of),
        "acknowledged_by": alarm.acknowledged_by,
    }


def _alarm_message(alarm: Any, board: Dashboard, of: Words) -> str:
    """From the alarm's figures; of an alarm without, as it was stored, in English."""
    kind, _, quantity = alarm.kind.partition(":")
    if kind == "queue":
        message = of("The oldest image has waited for {minutes} minutes; are the workers running?")
        return message.format(minutes=of.number(alarm.value))
    if kind == "agreement":
        message = of("Readers agreed with {share} of the answers; at least {limit} is wanted.")
        return message.format(share=of.percent(alarm.value), limit=of.percent(alarm.limit, 0))
    if kind == "drift":
        titles = {row.quantity: of(row.title) for row in board.drift}
        message = of("{quantity}: not as in the reference (p = {p} after correction)")
        return message.format(quantity=titles.get(quantity, quantity), p=of.number(alarm.value, 4))
    return str(alarm.message)


def _notes(board: Dashboard, of: Words) -> list[str]:
    figures = {
        "reviewed": board.agreement.reviewed,
        "films": board.agreement.films,
        "missing": board.films_until_baseline,
    }
    return [of(note).format(**figures) for note in NOTES if note.format(**figures) in board.notes]


def _cards(board: Dashboard, of: Words) -> list[dict[str, str]]:
    films, failed = sum(day.films for day in board.days), sum(day.failed for day in board.days)
    waiting = sum(depth.waiting + depth.running for depth in board.queue if depth.kind == "examine")
    seconds = [day.seconds for day in board.days if day.seconds is not None]
    taken = of("{n} s each (median of the last day)").format(n=of.number(seconds[-1], 1)) if seconds else ""
    cards = [
        (of("Images examined"), of.number(films), taken),
        (of("Called positive, of the answered"), *_estimate(board.positive_rate, of)),
        (of("No answer, of the images not refused"), *_estimate(board.abstention_rate, of)),
        (of("Refused by the gate"), *_estimate(board.refusal_rate, of)),
        (of("Agreement with readers"), *_estimate(board.agreement.agreement, of)),
        (of("Not readable"), of.number(failed), ""),
        (of("Waiting"), of.number(waiting), ""),
    ]
    return [{"name": name, "value": value, "more": more} for name, value, more in cards]


def _estimate(found: Estimate | None, of: Words) -> tuple[str, str]:
    if found is None:
        return "–", ""
    interval = of("{low} to {high}").format(low=of.percent(found.low), high=of.percent(found.high))
    return of.percent(found.value), f"{interval}, n = {of.number(found.n)}"


def _drift(row: DriftRow, of: Words) -> dict[str, Any]:
    def value(one: float | None) -> str:
        if row.kind == "share" or one is None:
            return of.percent(one)
        return of.number(one, 0 if abs(one) >= 100 else 3)

    return {
        "title": of(row.title),
        "reference": value(row.reference_value),
        "present": value(row.present_value),
        "p": "< 0.001" if row.adjusted < 0.001 else of.number(row.adjusted, 3),
        "drifted": row.drifted,
    }


def _drift_note(board: Dashboard, of: Words) -> str:
    if board.window_end is None:
        return of("Nothing is compared yet: {n} images are missing for the first window.").format(
            n=of.number(board.films_until_window)
        )
    return of(
        "The last window of images, until {time}, against the reference; p is corrected for their number."
    ).format(time=of.time(board.window_end))
