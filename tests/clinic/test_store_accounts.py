"""Log-ins, sessions and tokens: what is kept is a hash, what is over is over."""

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from pneumoscope.core.errors import (
    ConfigError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    TooManyAttemptsError,
)
from pneumoscope_clinic.store import accounts, viewers
from pneumoscope_clinic.store.tables import Token, User, WebSession, now
from pneumoscope_clinic.store.viewers import Viewer
from tests.clinic.stores import make_store

PASSWORD = "a long enough one"


@pytest.fixture
def reader(store):
    user = accounts.create_user(store, "reader", PASSWORD, "reader", "test")
    return Viewer(user.id, user.name, user.role)


def age(store, table, **columns):
    with store.write() as session:
        session.execute(update(table).values(**columns))


def test_the_first_administrator_is_made_once(any_store):
    secret = accounts.first_admin(any_store)
    assert accounts.first_admin(any_store) is None
    assert accounts.authenticate(any_store, "admin", secret, "127.0.0.1").role == "admin"
    viewer = viewers.token_viewer(any_store, secret)
    assert (viewer.name, viewer.role, sorted(viewer.scopes)) == ("admin", "admin", sorted(viewers.SCOPES))


def test_no_secret_is_kept(store, reader):
    token = viewers.create_token(store, reader, "ward", ["read"])
    with store.read() as session:
        user = session.scalar(select(User))
    cookie, _ = viewers.open_session(store, user)
    store.close()
    content = b"".join(file.read_bytes() for file in store.settings.directory.glob("clinic.db*"))
    assert b"argon2id" in content
    for secret in (PASSWORD, token, cookie):
        assert secret.encode() not in content


def test_wrong_password_unknown_name_and_disabled_user_are_alike(store, reader):
    said = set()
    for name, password in (("reader", "wrong password"), ("nobody", PASSWORD)):
        with pytest.raises(ForbiddenError) as caught:
            accounts.authenticate(store, name, password, "10.0.0.1")
        said.add(str(caught.value))
    accounts.create_user(store, "admin", PASSWORD, "admin", "test")
    accounts.change_user(store, "reader", "test", disabled=True)
    with pytest.raises(ForbiddenError) as caught:
        accounts.authenticate(store, "reader", PASSWORD, "10.0.0.1")
    assert said == {str(caught.value)}


def test_too_many_failures_of_a_name_pause_it(store, reader):
    assert store.settings.security.login_attempts == 5
    for _ in range(5):
        with pytest.raises(ForbiddenError):
            accounts.authenticate(store, "reader", "wrong password", "10.0.0.1")
    with pytest.raises(TooManyAttemptsError):
        accounts.authenticate(store, "reader", PASSWORD, "10.0.0.2")
    with store.write() as session:
        session.execute(update(accounts.Attempt).values(at=now() - timedelta(minutes=16)))
    assert accounts.authenticate(store, "reader", PASSWORD, "10.0.0.2").name == "reader"


def test_too_many_failures_of_an_address_pause_it(tmp_path, monkeypatch):
    monkeypatch.setattr(accounts, "_verified", lambda *_: False)  # what counts is the number of attempts
    store = make_store(tmp_path, security__login_attempts=1)
    for number in range(10):
        with pytest.raises(ForbiddenError):
            accounts.authenticate(store, f"name {number}", "wrong password", "10.0.0.1")
    with pytest.raises(TooManyAttemptsError):
        accounts.authenticate(store, "another", "wrong password", "10.0.0.1")
    store.close()


def test_a_session_ends_by_age_idleness_and_log_out(store, reader):
    with store.read() as session:
        user = session.scalar(select(User))
    cookie, csrf = viewers.open_session(store, user)
    assert viewers.session_viewer(store, cookie) == (
        Viewer(reader.user_id, "reader", "reader"),
        csrf,
    )
    age(store, WebSession, seen_at=now() - timedelta(minutes=59))
    assert viewers.session_viewer(store, cookie) is not None
    age(store, WebSession, seen_at=now() - timedelta(minutes=61))
    assert viewers.session_viewer(store, cookie) is None
    cookie, _ = viewers.open_session(store, user)
    age(store, WebSession, created_at=now() - timedelta(hours=13))
    assert viewers.session_viewer(store, cookie) is None
    cookie, _ = viewers.open_session(store, user)
    viewers.close_session(store, cookie)
    assert viewers.session_viewer(store, cookie) is None


@pytest.mark.parametrize("change", ["password", "disabled", "role"])
def test_a_change_of_the_user_ends_sessions(store, reader, change):
    accounts.create_user(store, "admin", PASSWORD, "admin", "test")
    with store.read() as session:
        cookie, _ = viewers.open_session(store, accounts.user_named(session, "reader"))
    if change == "password":
        accounts.set_password(store, "reader", "another long one", "test")
    elif change == "disabled":
        accounts.change_user(store, "reader", "test", disabled=True)
    else:
        accounts.change_user(store, "reader", "test", role="reviewer")
    assert viewers.session_viewer(store, cookie) is None


def test_tokens_end_when_they_are_revoked_over_or_their_user_is_shut_out(store, reader):
    accounts.create_user(store, "admin", PASSWORD, "admin", "test")
    token = viewers.create_token(store, reader, "ward", ["examine", "read"], days=1)
    assert viewers.token_viewer(store, token).scopes == {"examine", "read"}
    assert viewers.token_viewer(store, token + "x") is None
    accounts.change_user(store, "reader", "test", disabled=True)
    assert viewers.token_viewer(store, token) is None
    accounts.change_user(store, "reader", "test", disabled=False)
    assert viewers.token_viewer(store, token) is None  # letting in again revives nothing
    token = viewers.create_token(store, reader, "ward", ["read"], days=1)
    accounts.change_user(store, "reader", "test", role="reviewer")
    assert viewers.token_viewer(store, token) is not None
    age(store, Token, expires_at=now() - timedelta(seconds=1))
    assert viewers.token_viewer(store, token) is None
    age(store, Token, expires_at=None)
    [row] = viewers.list_tokens(store, reader)
    viewers.revoke_token(store, reader, row.id)
    assert viewers.token_viewer(store, token) is None
    assert viewers.list_tokens(store, reader) == []


def test_a_token_of_another_user_is_not_there(store, reader):
    other = accounts.create_user(store, "other", PASSWORD, "reader", "test")
    viewers.create_token(store, reader, "ward", ["read"])
    [row] = viewers.list_tokens(store, reader)
    stranger = Viewer(other.id, "other", "reader")
    assert viewers.list_tokens(store, stranger) == []
    with pytest.raises(NotFoundError):
        viewers.revoke_token(store, stranger, row.id)


def test_a_reader_cannot_make_an_admin_token(store, reader):
    with pytest.raises(ForbiddenError):
        viewers.create_token(store, reader, "x", ["admin"])
    with pytest.raises(ConfigError):
        viewers.create_token(store, reader, "x", ["everything"])


def test_roles_contain_each_other():
    reviewer = Viewer(1, "x", "reviewer", frozenset({"read"}))
    reviewer.require(role="reader", scope="read")
    with pytest.raises(ForbiddenError, match="role admin"):
        reviewer.require(role="admin")
    with pytest.raises(ForbiddenError, match="scope examine"):
        reviewer.require(scope="examine")


def test_the_last_administrator_stays(store):
    accounts.create_user(store, "admin", PASSWORD, "admin", "test")
    for change in ({"disabled": True}, {"role": "reader"}):
        with pytest.raises(ConflictError, match="no administrator"):
            accounts.change_user(store, "admin", "test", **change)
    assert accounts.list_users(store)[0].role == "admin"


@pytest.mark.parametrize(
    ("name", "password", "role"),
    [
        ("", PASSWORD, "reader"),
        (" x", PASSWORD, "reader"),
        ("a\nb", PASSWORD, "reader"),
        ("x" * 65, PASSWORD, "reader"),
        ("x", "short", "reader"),
        ("x", "y" * 257, "reader"),
        ("a long enough one", "A LONG ENOUGH ONE", "reader"),
        ("x", PASSWORD, "root"),
    ],
)
def test_users_that_are_not_allowed(store, name, password, role):
    with pytest.raises(ConfigError):
        accounts.create_user(store, name, password, role, "test")
    assert accounts.list_users(store) == []


def test_a_name_is_taken_once(any_store):
    accounts.create_user(any_store, "a", None, "reader", "test")
    with pytest.raises(ConflictError):
        accounts.create_user(any_store, "a", None, "reader", "test")
    with pytest.raises(ForbiddenError):
        accounts.authenticate(any_store, "a", "", "127.0.0.1")
