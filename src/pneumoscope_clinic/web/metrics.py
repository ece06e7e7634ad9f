"""Prometheus metrics, counted in the database, so that every process says the same; counters never fall."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from pneumoscope import __version__
from pneumoscope_clinic.monitoring.dashboard import waiting_minutes
from pneumoscope_clinic.store.bundles import active_bundle
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.queue import Queue
from pneumoscope_clinic.store.retention import EXAMINING, FEEDBACK, FILMS, RESULTS, Counted, totals
from pneumoscope_clinic.store.tables import Alarm

_NS = 1_000_000_000


def metrics_text(store: Store) -> bytes:
    """All metrics of the installation."""
    registry = CollectorRegistry()
    registry.register(_Collector(store))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """The metrics, by name."""
        yield self._counts("films_received", "Images received", FILMS, "source")
        yield self._counts("results", "Images examined", RESULTS, "decision")
        yield self._counts("feedback", "Final diagnoses given by readers", FEEDBACK, "diagnosis")
        jobs = GaugeMetricFamily("pneumoscope_jobs", "Jobs in the queue", labels=("kind", "state"))
        for (kind, state), count in sorted(Queue(self._store).depth().items()):
            jobs.add_metric((kind, state), count)
        yield jobs
        yield from self._single()

    def _counts(self, name: str, text: str, counted: Counted, label: str) -> Metric:
        family = CounterMetricFamily(f"pneumoscope_{name}", text, labels=(label,))
        with self._store.read() as session:
            for value, count in totals(session, counted).items():
                family.add_metric((value,), count)
        return family

    def _single(self) -> Iterator[Metric]:
        with self._store.read() as session:
            age = 60 * waiting_minutes(session).get("examine", 0.0)
            alarms = session.scalar(
                select(func.count()).select_from(Alarm).where(Alarm.resolved_at.is_(None))
            )
            seconds = sum(totals(session, EXAMINING).values()) / _NS
        yield GaugeMetricFamily(
            "pneumoscope_oldest_waiting_seconds", "How long the image that is due for longest has waited", age
        )
        yield GaugeMetricFamily("pneumoscope_open_alarms", "Alarms that are open", float(alarms or 0))
        yield CounterMetricFamily("pneumoscope_examining_seconds", "Time spent on examinations", seconds)
        about = GaugeMetricFamily("pneumoscope_info", "Version and bundle", labels=("version", "bundle"))
        about.add_metric((__version__, active_bundle(self._store).bundle_id), 1)
        yield about
