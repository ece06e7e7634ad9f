"""Log-in by OpenID Connect against a provider of our own on this machine, honest and not."""

import base64
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from pneumoscope_clinic.store.accounts import change_user, create_user, list_users
from pneumoscope_clinic.store.tables import AuditEntry
from pneumoscope_clinic.web import oidc
from tests.clinic.web_clinic import PASSWORD, Browser, web_clinic

CLIENT, SECRET = "pneumoscope-test", "the client's secret"


class Provider:
    """Answers discovery, keys and tokens; ``claims`` and ``key`` are what a dishonest one would change."""

    def __init__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        self.known = RSAKey.generate_key(2048, {"kid": "one", "alg": "RS256", "use": "sig"})
        self.reset()

    def reset(self):
        self.key, self.algorithm, self.claims, self.description, self.codes, self.asked = (
            self.known,
            "RS256",
            {},
            {},
            {},
            [],
        )

    def authorize(self, address, **claims):
        """What the browser brings back after the user has logged in there."""
        given = dict(parse_qsl(urlsplit(address).query))
        code = f"code-{len(self.codes)}"
        self.codes[code] = given
        self.claims = {"nonce": given["nonce"], **claims}
        return given, code

    def token(self, form, authorization):
        given = self.codes.pop(form["code"])
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(
            b"="
        )
        assert given["code_challenge"] == challenge.decode()
        assert given["code_challenge_method"] == "S256"
        assert base64.b64decode(authorization.removeprefix("Basic ")).decode() == f"{CLIENT}:{SECRET}"
        moment = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT,
            "sub": "42",
            "iat": moment,
            "exp": moment + 300,
            "preferred_username": "grace",
            "pneumoscope_role": "reviewer",
            **self.claims,
        }
        header = {"alg": self.algorithm, **({"kid": self.key.kid} if self.key.kid else {})}
        token = jwt.encode(
            header, {k: v for k, v in claims.items() if v is not None}, self.key, algorithms=[self.algorithm]
        )
        return {"access_token": "a", "token_type": "Bearer", "id_token": token}

    def _handler(provider):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                provider.asked.append(self.path)
                issuer = provider.issuer
                self._say(
                    {"keys": [provider.known.as_dict(private=False)]}
                    if self.path == "/keys"
                    else {
                        "issuer": issuer,
                        "authorization_endpoint": issuer + "/authorize",
                        "token_endpoint": issuer + "/token",
                        "jwks_uri": issuer + "/keys",
                        **provider.description,
                    }
                )

            def do_POST(self):
                form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
                try:
                    self._say(provider.token(form, self.headers["Authorization"]))
                except KeyError:
                    self._say({"error": "invalid_grant"}, 400)

            def _say(self, content, status=200):
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler


@pytest.fixture(scope="module")
def running():
    found = Provider()
    thread = threading.Thread(target=found.server.serve_forever)
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


@pytest.fixture
def provider(running):
    running.reset()
    oidc._provider.cache_clear()
    oidc._keys.cache_clear()
    return running


@pytest.fixture
def store(tmp_path, provider):
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET + "\n")
    settings = {"issuer": provider.issuer, "client_id": CLIENT, "client_secret_file": str(secret)}
    with web_clinic(tmp_path, security__oidc=settings) as (opened, _):
        yield opened


def log_in(store, provider, browser=None, next_="/dashboard", **claims):
    """A whole log-in: to the provider and back."""
    browser = browser or Browser(store)
    answer = browser.get("/login/oidc", params={"next": next_})
    assert answer.status_code == 303
    given, code = provider.authorize(answer.headers["location"], **claims)
    return browser, browser.get("/login/oidc/callback", params={"code": code, "state": given["state"]})


def users(store):
    return {user.name: user.role for user in list_users(store)}


def test_a_user_of_the_provider_logs_in(store, provider):
    assert "/login/oidc" in Browser(store).get("/login").text
    browser, answer = log_in(store, provider)
    assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard")
    assert browser.get("/").status_code == 200
    assert users(store)["grace"] == "reviewer"
    with store.read() as session:
        entry = session.query(AuditEntry).filter_by(action="login.oidc").one()
    assert (entry.actor, entry.object) == ("user:grace", "grace")
    log_in(store, provider, preferred_username="grace.hopper")  # another name, the same subject
    assert "grace.hopper" not in users(store)


def test_what_the_browser_is_sent_with(store, provider):
    answer = Browser(store).get("/login/oidc")
    address = urlsplit(answer.headers["location"])
    given = {name: values[0] for name, values in parse_qs(address.query).items()}
    assert f"{address.scheme}://{address.netloc}{address.path}" == provider.issuer + "/authorize"
    assert given["redirect_uri"] == "http://testserver/login/oidc/callback"
    assert (given["response_type"], given["client_id"], given["scope"]) == ("code", CLIENT, "openid profile")
    assert min(len(given[name]) for name in ("state", "nonce", "code_challenge")) >= 43
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "Max-Age=600" in cookie
    assert given["nonce"] not in cookie
    assert SECRET not in answer.headers["location"]


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "another-client"},
        {"aud": [CLIENT, "x"], "azp": "x"},
        {"iss": "https://evil.example"},
        {"exp": 1},
        {"exp": None},
        {"iat": 4_000_000_000},
        {"sub": None},
        {"nbf": 4_000_000_000},
    ],
    ids=lambda claims: "-".join(f"{k}={v}" for k, v in claims.items()),
)
def test_a_token_that_does_not_hold_is_refused(store, provider, claims):
    browser, answer = log_in(store, provider, **claims)
    assert answer.status_code == 403
    assert browser.get("/").status_code == 303
    assert "grace" not in users(store)


def test_a_signature_that_does_not_hold_is_refused(store, provider):
    provider.key = RSAKey.generate_key(2048, {"kid": "one"})
    assert log_in(store, provider)[1].status_code == 403
    provider.reset()
    provider.key = RSAKey.generate_key(2048, {"kid": "unknown"})
    before = provider.asked.count("/keys")
    assert log_in(store, provider)[1].status_code == 403
    assert provider.asked.count("/keys") == before + 1  # it has looked again, once


def test_other_algorithms_are_refused(store, provider, monkeypatch):
    """Neither none, nor an HMAC whose key is the provider's public one."""
    from joserfc.jwk import OctKey

    real = provider.token
    for algorithm, key in (
        ("none", None),
        ("HS256", OctKey.import_key(json.dumps(provider.known.as_dict(private=False)))),
    ):

        def token(form, authorization, algorithm=algorithm, key=key):
            answer = real(form, authorization)
            head, body, _ = answer["id_token"].split(".")
            claims = json.loads(base64.urlsafe_b64decode(body + "=="))
            if key is None:
                head = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
                return {**answer, "id_token": f"{head}.{body}."}
            return {
                **answer,
                "id_token": jwt.encode({"alg": algorithm, "kid": "one"}, claims, key, algorithms=["HS256"]),
            }

        monkeypatch.setattr(provider, "token", token)
        assert log_in(store, provider)[1].status_code == 403, algorithm


def test_a_log_in_that_was_not_begun_here_is_refused(store, provider):
    """CSRF of the log-in: the state of another browser, no state, or the same one a second time."""
    victim, attacker = Browser(store), Browser(store)
    given, code = provider.authorize(attacker.get("/login/oidc").headers["location"])
    victim.get("/login/oidc")
    for state in (given["state"], "", "x"):
        answer = victim.get("/login/oidc/callback", params={"code": code, "state": state})
        assert answer.status_code == 403
    assert (
        Browser(store).get("/login/oidc/callback", params={"code": code, "state": given["state"]}).status_code
        == 403
    )
    assert (
        attacker.get("/login/oidc/callback", params={"code": code, "state": given["state"]}).status_code
        == 303
    )
    again = attacker.get("/login/oidc/callback", params={"code": code, "state": given["state"]})
    assert again.status_code == 403  # the cookie went with the first
    tampered = Browser(store)
    tampered.cookies.set("pneumoscope_oidc", "00" * 60, path="/login")
    assert tampered.get("/login/oidc/callback", params={"code": "c", "state": "s"}).status_code == 403


def test_a_slow_log_in_is_refused(store, provider, monkeypatch):
    browser = Browser(store)
    given, code = provider.authorize(browser.get("/login/oidc").headers["location"])
    late = time.time() + 601
    monkeypatch.setattr(oidc.time, "time", lambda: late)
    assert (
        browser.get("/login/oidc/callback", params={"code": code, "state": given["state"]}).status_code == 403
    )


def test_the_role_follows_the_claim(store, provider):
    assert (
        log_in(store, provider, pneumoscope_role=None)[1].status_code == 403
    )  # none, and the default is none
    assert log_in(store, provider, pneumoscope_role="emperor")[1].status_code == 403
    assert "grace" not in users(store)
    log_in(store, provider, pneumoscope_role=["staff", "reader", "admin"])
    assert users(store)["grace"] == "admin"
    log_in(store, provider, pneumoscope_role="reader")
    assert users(store)["grace"] == "reader"
    log_in(store, provider, pneumoscope_role="admin")
    assert log_in(store, provider, pneumoscope_role=None)[1].status_code == 403  # no longer admin there
    assert log_in(store, provider, pneumoscope_role="reader")[1].status_code == 303
    change_user(store, "grace", "test", disabled=True)
    assert log_in(store, provider, pneumoscope_role="admin")[1].status_code == 403


def change_settings(store, **values):
    settings = store.settings.security.oidc.model_copy(update=values)
    security = store.settings.security.model_copy(update={"oidc": settings})
    store.settings = store.settings.model_copy(update={"security": security})


def test_who_loses_the_claim_has_the_default_role(store, provider):
    change_settings(store, default_role="reader")
    log_in(store, provider, pneumoscope_role="admin")
    assert users(store)["grace"] == "admin"
    assert log_in(store, provider, pneumoscope_role=None)[1].status_code == 303
    assert users(store)["grace"] == "reader"


def test_without_a_claim_for_roles_users_keep_those_of_here(store, provider):
    change_settings(store, role_claim="", default_role="reader")
    log_in(store, provider, pneumoscope_role="admin")  # a claim that nobody asked for
    assert users(store)["grace"] == "reader"
    change_user(store, "grace", "test", role="reviewer")
    log_in(store, provider)
    assert users(store)["grace"] == "reviewer"


def test_nobody_takes_an_account_over_by_its_name(store, provider):
    assert log_in(store, provider, preferred_username="root", pneumoscope_role="admin")[1].status_code == 403
    create_user(store, "henry", None, "reader", "test")  # made for whoever is henry at the provider
    assert (
        log_in(store, provider, preferred_username="henry", sub="7", pneumoscope_role="reader")[1].status_code
        == 303
    )
    assert (
        log_in(store, provider, preferred_username="henry", sub="8", pneumoscope_role="reader")[1].status_code
        == 403
    )
    assert log_in(store, provider, preferred_username="a\nb")[1].status_code == 403
    answer = Browser(store).post("/login", data={"name": "henry", "password": ""})
    assert answer.status_code == 403


def test_nobody_is_led_to_another_site(store, provider):
    _, answer = log_in(store, provider, next_="https://evil.example")
    assert answer.headers["location"] == "/"


@pytest.mark.parametrize(
    "description",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": "http://evil.example/token"},
        {"jwks_uri": "file:///etc/passwd"},
    ],
    ids=lambda found: next(iter(found)),
)
def test_a_provider_that_is_not_what_it_should_be_is_refused(store, provider, description):
    provider.description = description
    assert Browser(store).get("/login/oidc").status_code == 403


def test_a_provider_that_is_away_is_no_error_of_ours(store, provider, caplog):
    change_settings(store, issuer="http://127.0.0.1:9")
    assert Browser(store).get("/login/oidc").status_code == 403
    assert "the OpenID provider does not answer" in caplog.text


def test_without_configuration_there_is_nothing(tmp_path):
    with web_clinic(tmp_path) as (store, _):
        assert "/login/oidc" not in Browser(store).get("/login").text
        assert Browser(store).get("/login/oidc").status_code == 404
        assert Browser(store).get("/login/oidc/callback?code=x&state=y").status_code == 404
        assert Browser(store).post("/login", data={"name": "ada", "password": PASSWORD}).status_code == 303
