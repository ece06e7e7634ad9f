"""The active bundle: activation, roll-back and history, every change in the audit log."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from pneumoscope.core.errors import BundleError
from pneumoscope.inference.bundle import Bundle, load_bundle, shipped_bundles
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import Activation


def active_bundle(store: Store) -> Activation:
    """The activation in force; a new installation activates ``bundle`` of its settings.

    Raises:
        BundleError: that bundle cannot be opened.
    """
    with store.read() as session:
        current = _last(session)
    return activate(store, store.settings.bundle, "setup", only_first=True) if current is None else current


def open_active(store: Store) -> Bundle:
    """The bundle in force, opened.

    Raises:
        BundleError: it cannot be opened, or is another one than was activated.
        ConfigError: it lacks the operating point of the settings.
    """
    row = active_bundle(store)
    bundle = load_bundle(row.location)
    check_activation(row, bundle.id)
    bundle.operating_point(store.settings.operating_point)
    return bundle


def check_activation(row: Activation, bundle_id: str) -> None:
    """Check that what is at the location of an activation is what was activated.

    Raises:
        BundleError: it is another bundle: the directory was replaced, or a new version ships another one.
    """
    if bundle_id != row.bundle_id:
        raise BundleError(
            f"'{row.location}' now holds {bundle_id}",
            expected=f"{row.bundle_id}, which was activated",
            remedy=f"pneumoscope clinic bundles activate {row.location}",
        )


def activations(store: Store, limit: int = 100) -> list[Activation]:
    """The history, the newest first."""
    with store.read() as session:
        return list(session.scalars(select(Activation).order_by(Activation.id.desc()).limit(limit)))


def activate(store: Store, location: str, actor: str, *, only_first: bool = False) -> Activation:
    """Let a bundle examine images from now on; workers open it with their next image.

    Args:
        store: the clinic's.
        location: a shipped bundle's name or a directory.
        actor: for the audit log.
        only_first: leave things as they are when a bundle is active already.

    Raises:
        BundleError: the bundle cannot be opened, or was altered.
        ConfigError: it lacks the operating point of the settings.
    """
    bundle = load_bundle(location)
    bundle.operating_point(store.settings.operating_point)
    name = location if location in shipped_bundles() else str(bundle.directory.absolute())
    with store.write() as session:
        current = _last(session)
        if only_first and current is not None:
            return current
        row = Activation(bundle_id=bundle.id, location=name, card=bundle.card(), by=actor)
        session.add(row)
        audit_log.append(store, session, actor, "bundle.activated", bundle.id)
    return row


def rollback(store: Store, actor: str) -> Activation:
    """Activate the bundle that was in force before the one that is.

    Raises:
        BundleError: there is no earlier one, or it cannot be opened any more.
    """
    history = activations(store)
    earlier = next((row for row in history if row.bundle_id != history[0].bundle_id), None)
    if earlier is None:
        raise BundleError("no earlier bundle was active here", remedy="activate one by its name or directory")
    check_activation(earlier, load_bundle(earlier.location).id)
    return activate(store, earlier.location, actor)


def _last(session: Session) -> Activation | None:
    return session.scalar(select(Activation).order_by(Activation.id.desc()).limit(1))
