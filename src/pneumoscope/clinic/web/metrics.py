"""Prometheus metrics, counted in the database, so that every process says the same and none forgets.

In: the store. Out: the text format of Prometheus.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from pneumoscope import __version__
from pneumoscope.clinic.store.bundles import active_bundle
from pneumoscope.clinic.store.database import Store
from pneumoscope.clinic.store.queue import Queue
from pneumoscope.clinic.store.tables import Alarm, Feedback, Film, Job, Result, now

__all__ = ["metrics_text"]


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
        yield self._counts("films_received", "Films received", Film.source, "source")
        yield self._counts("results", "Films examined", Result.decision, "decision")
        yield self._counts("feedback", "Final diagnoses given by readers", Feedback.diagnosis, "diagnosis")
        jobs = GaugeMetricFamily("pneumoscope_jobs", "Jobs in the queue", labels=("kind", "state"))
        for (kind, state), count in sorted(Queue(self._store).depth().items()):
            jobs.add_metric((kind, state), count)
        yield jobs
        yield from self._single()

    def _counts(self, name: str, text: str, column: object, label: str) -> Metric:
        family = CounterMetricFamily(f"pneumoscope_{name}", text, labels=(label,))
        with self._store.read() as session:
            rows = session.execute(select(column, func.count()).group_by(column))  # type: ignore[call-overload]
            for value, count in sorted(rows.all()):
                family.add_metric((value,), count)
        return family

    def _single(self) -> Iterator[Metric]:
        with self._store.read() as session:
            waiting = select(func.min(Job.created_at)).where(Job.kind == "examine", Job.state == "waiting")
            oldest = session.scalar(waiting)
            alarms = session.scalar(
                select(func.count()).select_from(Alarm).where(Alarm.resolved_at.is_(None))
            )
            seconds = session.scalar(select(func.sum(Result.seconds)))
        age = 0.0 if oldest is None else (now() - oldest).total_seconds()
        yield GaugeMetricFamily(
            "pneumoscope_oldest_waiting_seconds", "Age of the film that waits longest", age
        )
        yield GaugeMetricFamily("pneumoscope_open_alarms", "Alarms that are open", float(alarms or 0))
        yield CounterMetricFamily(
            "pneumoscope_examining_seconds", "Time spent on examinations", seconds or 0.0
        )
        about = GaugeMetricFamily("pneumoscope_info", "Version and bundle", labels=("version", "bundle"))
        about.add_metric((__version__, active_bundle(self._store).bundle_id), 1)
        yield about
