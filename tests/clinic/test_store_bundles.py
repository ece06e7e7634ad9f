"""Bundles are activated and taken back, and a changed one is not taken."""

import pytest

from pneumoscope.core.errors import BundleError
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.bundles import activate, activations, active_bundle, rollback
from tests.clinic.stores import make_store
from tests.tiny_bundle import write_tiny_bundle


@pytest.fixture
def two(tmp_path):
    first = write_tiny_bundle(tmp_path / "first")
    second = write_tiny_bundle(tmp_path / "second", name="other")
    store = make_store(tmp_path, bundle=str(first.directory))
    yield store, first, second
    store.close()


def test_a_new_installation_takes_the_bundle_of_its_settings(two):
    store, first, _ = two
    assert active_bundle(store).bundle_id == first.id
    assert active_bundle(store).card["name"] == "tiny"
    assert len(activations(store)) == 1


def test_activate_and_roll_back(two):
    store, first, second = two
    active_bundle(store)
    activate(store, str(second.directory), "admin")
    assert active_bundle(store).bundle_id == second.id
    assert rollback(store, "admin").bundle_id == first.id
    assert rollback(store, "admin").bundle_id == second.id
    assert [row.by for row in activations(store)] == ["admin", "admin", "admin", "setup"]
    assert audit_log.verify(store).rows == 4


def test_nothing_to_roll_back_to(two):
    store, first, _ = two
    active_bundle(store)
    activate(store, str(first.directory), "admin")
    with pytest.raises(BundleError, match="no earlier bundle"):
        rollback(store, "admin")


def test_a_directory_that_holds_another_bundle_now(two):
    store, first, second = two
    active_bundle(store)
    activate(store, str(second.directory), "admin")
    write_tiny_bundle(first.directory, name="third")
    with pytest.raises(BundleError, match="now holds third"):
        rollback(store, "admin")
    assert active_bundle(store).bundle_id == second.id


def test_a_bundle_that_cannot_be_opened_changes_nothing(two):
    store, first, second = two
    active_bundle(store)
    (second.directory / "bundle.json").write_text("{}")
    with pytest.raises(BundleError):
        activate(store, str(second.directory), "admin")
    assert active_bundle(store).bundle_id == first.id
