"""Who gets where: every route of the application, asked by those who may not use it.

The routes are taken from the application, so that a new one cannot be forgotten: it fails here until it is
said what its parameters are.
"""

import re
from datetime import timedelta

import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy import func, select, update

from pneumoscope.core.errors import ForbiddenError, NotFoundError
from pneumoscope_clinic.store.accounts import change_user, set_password, user_named
from pneumoscope_clinic.store.tables import Alarm, Feedback, Film, Study, Token, User, WebSession, now
from pneumoscope_clinic.store.viewers import Viewer as Account
from pneumoscope_clinic.store.viewers import (
    create_token,
    list_tokens,
    revoke_token,
    session_viewer,
    token_viewer,
)
from pneumoscope_clinic.web.app import create_app
from pneumoscope_clinic.worker.sandbox_tasks import encode_picture
from tests.clinic.films import pixels, png_film
from tests.clinic.web_clinic import PASSWORD, USERS, Browser, web_clinic, work

PUBLIC = {
    "/login",
    "/language",
    "/health/live",
    "/health/ready",
    "/v1/openapi.json",
    "/login/oidc",
    "/login/oidc/callback",
}
"""Routes that a stranger may use."""
ADMIN = ("/users", "/configuration", "/audit")
REVIEWER = ("/alarms",)


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    with web_clinic(tmp_path_factory.mktemp("access")) as made:
        yield made


@pytest.fixture(scope="module")
def store(clinic):
    return clinic[0]


@pytest.fixture(scope="module")
def theirs(clinic):
    """Parameters of paths that lead to what is Ben's: two examined images of one batch, a token, an alarm."""
    store, _ = clinic
    ben = Browser(store, "ben")
    batch = ben.upload(png_film(0.8), png_film(0.3), reference="Ben's bed").headers["location"].split("/")[-1]
    work(*clinic)
    with store.write() as session:
        film = session.scalars(select(Film).where(Film.batch_id == batch)).first()
        store.blobs.put(
            "pictures", film.id, encode_picture(pixels())
        )  # as a worker would, when it is asked for
        alarm = Alarm(kind="drift", message="it drifts")
        session.add(alarm)
        session.flush()
        found = {"study_id": film.study_id, "film_id": film.id, "batch_id": batch, "alarm_id": alarm.id}
        found["user_id"] = user_named(session, "ben").id
    create_token(store, account(store, "ben"), "ben's", ["read"])
    found["token_id"] = list_tokens(store, account(store, "ben"))[0].id
    return {**found, "name": "bacterial", "change": "disable"}


def account(store, name):
    with store.read() as session:
        user = user_named(session, name)
    return Account(user.id, user.name, user.role)


def routes(store, *methods):
    """(method, path) of everything that the application answers."""
    found = []
    for route in iter_route_contexts(create_app(store).routes):
        for method in sorted(set(route.methods or ()) & set(methods)):
            found.append((method, route.path))
    assert len(found) > 10
    return found


def filled(path, values):
    """The path with its parameters; a KeyError says that a new one must be added to ``theirs``."""
    return re.sub(r"\{(\w+)(?::\w+)?\}", lambda match: str(values[match[1]]), path)


def bearer(store, name, scopes=("examine", "read", "feedback")):
    return {"Authorization": "Bearer " + create_token(store, account(store, name), "test", list(scopes))}


def test_a_stranger_gets_nowhere(store, theirs):
    browser = Browser(store)
    for method, path in routes(store, "GET", "POST"):
        if path in PUBLIC:
            continue
        answer = browser.request(method, filled(path, theirs))
        expected = (401,) if method == "POST" or path.startswith(("/v1", "/metrics")) else (303,)
        assert answer.status_code in expected, (method, path)
        assert answer.headers.get("location", "/login?").startswith("/login?"), path


@pytest.mark.parametrize("credentials", ["session", "token"])
def test_a_reader_does_not_see_what_is_anothers(store, theirs, credentials):
    """IDOR: each route with an identifier in it answers as if that were not there."""
    owner, other = Browser(store, "ben"), Browser(store, "ada")
    headers = {"owner": {}, "other": {}}
    if credentials == "token":
        headers = {"owner": bearer(store, "ben"), "other": bearer(store, "ada")}
        owner, other = Browser(store), Browser(store)
    tried = 0
    for _, path in routes(store, "GET"):
        if "{" not in path or (credentials == "token" and not path.startswith("/v1")):
            continue
        if path.endswith("/events"):  # a stream; see below
            continue
        assert owner.get(filled(path, theirs), headers=headers["owner"]).status_code in (200, 303), path
        answer = other.get(filled(path, theirs), headers=headers["other"])
        nobodys = {**theirs, "film_id": "0" * 32, "study_id": "1" * 32, "batch_id": "2" * 32}
        missing = other.get(filled(path, nobodys), headers=headers["other"])
        assert answer.status_code == missing.status_code == 404, path
        said = answer.text
        for name, value in nobodys.items():
            said = said.replace(str(theirs[name]), str(value))
        assert said == missing.text, path
        tried += 1
    assert tried >= 6


def test_a_reader_does_not_follow_anothers_films(store, theirs):
    other = Browser(store, "ada")
    for path in ("/films/{film_id}/events", "/batches/{batch_id}/events"):
        assert other.get(filled(path, theirs)).status_code == 404


def test_lists_leave_out_what_is_anothers(store, theirs):
    secrets = [str(theirs[key]) for key in ("study_id", "film_id", "batch_id")] + [
        "Ben's bed",
        "Ben&#39;s bed",
    ]
    owner, other = Browser(store, "ben"), Browser(store, "ada")
    seen = 0
    for _, path in routes(store, "GET"):
        if "{" in path or path in PUBLIC:
            continue
        assert not [secret for secret in secrets if secret in other.get(path).text], path
        seen += any(secret in owner.get(path).text for secret in secrets)
    assert seen >= 2  # the worklist and /v1/studies


@pytest.mark.parametrize("credentials", ["session", "token"])
def test_a_reader_does_not_change_what_is_anothers(store, theirs, credentials):
    other = Browser(store, "ada")
    headers = {"X-CSRF-Token": other.csrf}
    if credentials == "token":
        other, headers = Browser(store), bearer(store, "ada")
    before = counts(store)
    for method, path in routes(store, "POST", "PUT", "PATCH", "DELETE"):
        if "{" not in path or (credentials == "token" and not path.startswith("/v1")):
            continue
        body = {"diagnosis": "normal", "role": "admin"}
        kind = {"json": {"diagnosis": "normal"}} if path.startswith("/v1") else {"data": body}
        answer = other.request(method, filled(path, theirs), headers=headers, **kind)
        assert answer.status_code in (403, 404), path
    assert counts(store) == before
    answer = other.post("/upload", headers=headers, data={"batch": theirs["batch_id"]}, files={"films": b"x"})
    assert answer.status_code in (401, 404, 422)
    assert counts(store) == before


def counts(store):
    with store.read() as session:
        rows = [
            session.scalar(select(func.count()).select_from(table)) for table in (Film, Study, Feedback, User)
        ]
        tokens = session.scalar(select(func.count()).select_from(Token).where(Token.revoked_at.is_not(None)))
        roles = session.execute(select(User.name, User.role, User.disabled).order_by(User.id)).all()
        seen = session.scalar(
            select(func.count()).select_from(Alarm).where(Alarm.acknowledged_by.is_not(None))
        )
    return rows, tokens, [tuple(row) for row in roles], seen


@pytest.mark.parametrize("name", sorted(USERS))
def test_roles_open_what_is_theirs_alone(store, theirs, name):
    browser, role = Browser(store, name), USERS[name]
    for method, path in routes(store, "GET", "POST"):
        needs = "admin" if path.startswith(ADMIN) else "reviewer" if path.startswith(REVIEWER) else "reader"
        if needs == "reader" or (method == "POST" and role == "admin"):
            continue
        allowed = role == "admin" or role == needs
        answer = browser.request(method, filled(path, theirs), headers={"X-CSRF-Token": browser.csrf})
        assert (answer.status_code != 403) == allowed, (name, method, path)


def test_a_form_field_does_not_raise_ones_role(store):
    """Mass assignment: fields that a form does not have change nothing."""
    ada = Browser(store, "ada")
    before = counts(store)
    extra = {
        "role": "admin",
        "user_id": "1",
        "owner_id": "1",
        "disabled": "false",
        "scopes": ["admin"],
        "is_admin": "1",
    }
    ada.submit("/settings/tokens", name="t", **extra)
    ada.submit("/language", language="en", **extra)
    ada.submit("/settings/password", current="wrong", new="x" * 12, again="x" * 12, **extra)
    assert counts(store) == before
    assert account(store, "ada").role == "reader"
    with pytest.raises(ForbiddenError):
        create_token(store, account(store, "ada"), "t", ["admin"])


def test_a_token_does_what_its_scopes_say(store, theirs):
    needed = {"examine": ("/v1/examine", "/v1/batches"), "feedback": ("/v1/films/{film_id}/feedback",)}
    for scope in ("examine", "read", "feedback"):
        headers, program = bearer(store, "ben", [scope]), Browser(store)
        for method, path in routes(store, "GET", "POST"):
            if not path.startswith("/v1/") or path in PUBLIC:
                continue
            own = next((name for name, paths in needed.items() if method == "POST" and path in paths), "read")
            answer = program.request(method, filled(path, theirs), headers=headers)
            assert (answer.status_code == 403) == (own != scope), (scope, method, path)


def test_a_token_does_not_open_pages(store):
    for path in ("/", "/settings", "/users"):
        answer = Browser(store).get(path, headers=bearer(store, "root", ["admin", "read"]))
        assert answer.status_code == 303, path


def test_tokens_are_kept_as_hashes_and_end(store):
    ada = account(store, "ada")
    secret = create_token(store, ada, "ends", ["read"], days=1)
    with store.read() as session:
        row = session.scalars(select(Token).where(Token.name == "ends")).one()
    assert secret not in str(vars(row))
    assert len(row.hash) == 64
    ask = {"Authorization": f"Bearer {secret}"}
    assert Browser(store).get("/v1/studies", headers=ask).status_code == 200
    for wrong in (secret[:-1], secret + "x", secret.upper(), "", " ", "pns_", "Ω"):
        assert (
            Browser(store)
            .get("/v1/studies", headers={"Authorization": f"Bearer {wrong}".encode()})
            .status_code
            == 401
        )
    with store.write() as session:
        session.execute(
            update(Token).where(Token.id == row.id).values(expires_at=now() - timedelta(seconds=1))
        )
    assert Browser(store).get("/v1/studies", headers=ask).status_code == 401
    secret = create_token(store, ada, "revoked", ["read"])
    number = next(token.id for token in list_tokens(store, ada) if token.name == "revoked")
    with pytest.raises(NotFoundError):
        revoke_token(store, account(store, "ben"), number)
    assert token_viewer(store, secret)
    revoke_token(store, ada, number)
    assert token_viewer(store, secret) is None


def test_a_disabled_user_is_out_at_once(store):
    ben = Browser(store, "ben")
    headers = bearer(store, "ben")
    change_user(store, "ben", "test", disabled=True)
    try:
        assert ben.get("/").status_code == 303
        assert Browser(store).get("/v1/studies", headers=headers).status_code == 401
    finally:
        change_user(store, "ben", "test", disabled=False)
    assert Browser(store).get("/v1/studies", headers=headers).status_code == 401
    assert Browser(store).get("/v1/studies", headers=bearer(store, "ben")).status_code == 200


def test_a_form_of_another_site_does_nothing(store, theirs):
    """CSRF: every POST with a session needs that session's token, and must come from our own pages."""
    ada, elsewhere = Browser(store, "root"), {"Origin": "https://evil.example"}
    other = Browser(store, "ben")
    before = counts(store)
    for method, path in routes(store, "POST", "PUT", "PATCH", "DELETE"):
        if path in ("/login", "/login/oidc/callback"):
            continue
        address = filled(path, theirs)
        for headers, data in (
            ({}, {}),
            ({}, {"csrf": ""}),
            ({}, {"csrf": "x"}),
            ({}, {"csrf": other.csrf}),
            ({"X-CSRF-Token": other.csrf}, {}),
            ({"X-CSRF-Token": ""}, {"csrf": ada.csrf}),
            ({**elsewhere, "X-CSRF-Token": ada.csrf}, {"csrf": ada.csrf}),
            ({"Origin": "null", "X-CSRF-Token": ada.csrf}, {"csrf": ada.csrf}),
            ({"Content-Type": "text/plain"}, {}),
        ):
            sent = {"content": b'{"diagnosis": "normal"}'} if "Content-Type" in headers else {"data": data}
            answer = ada.request(method, address, headers=headers, **sent)
            assert answer.status_code == 403, (path, headers, data)
    assert counts(store) == before


def test_logging_in_and_the_language_are_for_our_own_pages(store):
    for path, data in (("/login", {"name": "ada", "password": PASSWORD}), ("/language", {"language": "fr"})):
        answer = Browser(store).post(path, data=data, headers={"Origin": "https://evil.example"})
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers


def test_a_log_in_makes_a_new_session_and_ends_the_old_one(store):
    """Session fixation: the value that a browser brings is never the one that it gets."""
    browser = Browser(store)
    browser.cookies.set("pneumoscope", "chosen-by-an-attacker")
    answer = browser.post("/login", data={"name": "ada", "password": PASSWORD})
    cookie = answer.cookies["pneumoscope"]
    assert cookie != "chosen-by-an-attacker"
    assert len(cookie) >= 43  # 256 bits
    assert session_viewer(store, "chosen-by-an-attacker") is None
    csrf = session_viewer(store, cookie)[1]
    again = browser.post("/login", data={"name": "ada", "password": PASSWORD, "csrf": csrf})
    assert again.status_code == 303
    assert again.cookies["pneumoscope"] != cookie
    assert session_viewer(store, cookie) is None


def test_the_cookie_is_out_of_reach(store, tmp_path):
    flags = (
        Browser(store)
        .post("/login", data={"name": "ada", "password": PASSWORD})
        .headers["set-cookie"]
        .lower()
    )
    assert "httponly" in flags
    assert "samesite=lax" in flags
    assert "path=/" in flags
    assert "domain" not in flags
    with web_clinic(tmp_path, server__public_url="https://films.example") as (secure, _):
        browser = Browser(secure)
        browser.base_url = "https://films.example"
        answer = browser.post("/login", data={"name": "ada", "password": PASSWORD})
        flags = answer.headers["set-cookie"]
        assert flags.startswith("__Host-pneumoscope=")
        assert "secure" in flags.lower()
        assert answer.headers["strict-transport-security"] == "max-age=31536000"


def test_sessions_end(store):
    ada = Browser(store, "ada")
    assert ada.get("/").status_code == 200
    cookie = ada.cookies["pneumoscope"]
    assert ada.submit("/logout").status_code == 303
    ada.cookies.set("pneumoscope", cookie)
    assert ada.get("/").status_code == 303  # not only the browser has forgotten it

    for column, age in (("seen_at", timedelta(minutes=61)), ("created_at", timedelta(hours=13))):
        ada = Browser(store, "ada")
        with store.write() as session:
            user = user_named(session, "ada")
            late = update(WebSession).where(WebSession.user_id == user.id)
            session.execute(late.values({column: now() - age}))
        assert ada.get("/").status_code == 303, column


def test_a_new_password_ends_sessions_and_the_first_token(store):
    other, ada = Browser(store, "ada"), Browser(store, "ada")
    first = "pns_first"
    with store.write() as session:
        from pneumoscope_clinic.store.viewers import _digest

        user = user_named(session, "ada")
        session.add(Token(name="first", hash=_digest(first), scopes=["read"], user_id=user.id))
    answer = ada.submit(
        "/settings/password", current=PASSWORD, new="another password", again="another password"
    )
    assert answer.status_code == 303
    assert other.get("/").status_code == 303
    assert ada.get("/").status_code == 200  # with the session that the answer brought
    assert token_viewer(store, first) is None
    set_password(store, "ada", PASSWORD, "test")
