"""OpenID Connect log-in: authorization code flow with PKCE (RFC 7636), state, nonce and a signed ID token.

State between the two requests is in an encrypted cookie, so that any process can finish the log-in. The
provider must use https, except on this machine.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from pneumoscope.core.errors import ConfigError, ForbiddenError, NotFoundError, PneumoscopeError
from pneumoscope_clinic.settings import OidcSettings, read_secret
from pneumoscope_clinic.store.accounts import ExternalUser, external_user
from pneumoscope_clinic.store.viewers import ROLES, open_session
from pneumoscope_clinic.web.access import is_secure, set_cookie, store_of
from pneumoscope_clinic.web.pages_login import inside
from pneumoscope_clinic.web.rendering import page, reader_words

router = APIRouter(include_in_schema=False)

_log = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
"""Of ID tokens: signatures of a key that only the provider has (RFC 7518, RFC 8037); not HS256, not none."""
_COOKIE, _PURPOSE = "pneumoscope_oidc", "oidc/login"
_LOGIN_S = 600
"""Time to log in at the provider."""
_TIMEOUT_S = 10.0
_LEEWAY_S = 60
"""Between the provider's clock and ours."""
_KEYS_S = 3600
"""The provider's addresses and keys are asked for again after so long, or when a key is unknown."""


@dataclass(frozen=True, slots=True)
class Provider:
    """What a provider says of itself (OpenID Connect Discovery 1.0 section 3)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str


@router.get("/login/oidc")
def begin(request: Request, next: str = "/") -> Response:
    """Send the browser to the provider."""
    settings = _settings(request)
    try:
        provider, client = _provider(settings, _hour()), _client(request, settings)
    except PneumoscopeError as error:
        return _refused(request, error)
    remembered = {name: secrets.token_urlsafe(32) for name in ("state", "nonce", "verifier")}
    address, _ = client.create_authorization_url(
        provider.authorization_endpoint,
        state=remembered["state"],
        nonce=remembered["nonce"],
        code_verifier=remembered["verifier"],
    )
    response = RedirectResponse(address, 303)
    kept = json.dumps({**remembered, "next": next[:500], "until": time.time() + _LOGIN_S})
    encrypted = store_of(request).cipher.encrypt(kept.encode(), _PURPOSE).hex()
    response.set_cookie(
        _COOKIE,
        encrypted,
        max_age=_LOGIN_S,
        path="/login",
        secure=is_secure(request),
        httponly=True,
        samesite="lax",
    )
    return response


@router.get("/login/oidc/callback")
def finish(request: Request, code: str = "", state: str = "") -> Response:
    """Take the browser back: check everything, and open a session."""
    settings, store = _settings(request), store_of(request)
    try:
        remembered = _remembered(request, state)
        claims = _claims(request, settings, code, remembered)
        known = ExternalUser(str(claims["iss"]), str(claims["sub"]), _name(claims), _role(settings, claims))
        default = None if settings.default_role == "none" else settings.default_role
        user = external_user(store, known, default, keeps_role=not settings.role_claim)
    except PneumoscopeError as error:
        return _refused(request, error)
    cookie, _ = open_session(store, user)
    response = RedirectResponse(inside(remembered["next"]), 303)
    response.delete_cookie(_COOKIE, path="/login", secure=is_secure(request), httponly=True, samesite="lax")
    set_cookie(request, response, cookie)
    return response


def _settings(request: Request) -> OidcSettings:
    settings = store_of(request).settings.security.oidc
    if settings.issuer is None or settings.client_id is None:
        raise NotFoundError("there is no such log-in here")
    return settings


def _refused(request: Request, error: PneumoscopeError) -> Response:
    """The log-in page; the reason is in the log, without what the provider said of the user."""
    _log.warning("a log-in by OpenID Connect was refused: %s", error.problem)
    of = reader_words(request)
    problem = of("Log in with your organisation's account") + ": " + of("Not allowed")
    return page(
        request, "login.html", None, status=403, next="/", name="", problem=problem, notice="", oidc=True
    )


def _remembered(request: Request, state: str) -> dict[str, Any]:
    """What :func:`begin` kept for this browser."""
    try:
        encrypted = bytes.fromhex(request.cookies.get(_COOKIE, ""))
        kept: dict[str, Any] = json.loads(store_of(request).cipher.decrypt(encrypted, _PURPOSE))
    except (ValueError, PneumoscopeError) as error:
        raise ForbiddenError("the log-in was not begun in this browser") from error
    if time.time() > kept["until"] or not secrets.compare_digest(state.encode(), kept["state"].encode()):
        raise ForbiddenError("the log-in took too long, or is another's")
    return kept


def _claims(request: Request, settings: OidcSettings, code: str, kept: Mapping[str, Any]) -> dict[str, Any]:
    """The checked claims of the ID token that a code is good for (OpenID Connect Core 1.0, 3.1.3.7)."""
    from authlib.common.errors import AuthlibBaseError
    from authlib.oidc.core import CodeIDToken
    from joserfc import jwt
    from joserfc.errors import JoseError
    from requests import RequestException

    provider = _provider(settings, _hour())
    try:
        token = _client(request, settings).fetch_token(
            provider.token_endpoint, code=code, code_verifier=kept["verifier"], timeout=_TIMEOUT_S
        )
        found = jwt.decode(str(token["id_token"]), _key(provider.jwks_uri), algorithms=list(ALGORITHMS))
        options = {"iss": {"value": provider.issuer}, "aud": {"value": settings.client_id}}
        given = {
            "nonce": kept["nonce"],
            "client_id": settings.client_id,
            "access_token": token.get("access_token"),
        }
        claims = CodeIDToken(found.claims, found.header, options, given)
        claims.validate(leeway=_LEEWAY_S)
    except (AuthlibBaseError, JoseError, RequestException, KeyError, TypeError, ValueError) as error:
        raise ForbiddenError(f"the provider's answer does not hold ({type(error).__name__})") from error
    return dict(claims)


def _key(address: str) -> Any:
    """Finds the key of a token; an unknown one makes it look again, at most once a token."""
    from joserfc.errors import InvalidKeyIdError

    def find(token: Any) -> Any:
        try:
            return _chosen(_keys(address, _hour()), token)
        except InvalidKeyIdError:
            _keys.cache_clear()
            return _chosen(_keys(address, _hour()), token)

    return find


def _chosen(keys: Any, token: Any) -> Any:
    number = token.headers().get("kid")
    return keys.get_by_kid(number) if number is not None or len(keys.keys) > 1 else keys.keys[0]


@lru_cache(maxsize=4)
def _keys(address: str, hour: int) -> Any:
    from joserfc.jwk import KeySet

    del hour  # part of the key: it ends what is remembered
    found: Any = _fetched(address)
    return KeySet.import_key_set(found)


@lru_cache(maxsize=4)
def _provider(settings: OidcSettings, hour: int) -> Provider:
    """The provider's description of itself.

    Raises:
        ForbiddenError: it cannot be had. ConfigError: it is another's, or not over https.
    """
    del hour
    issuer = str(settings.issuer)
    found = _fetched(issuer.rstrip("/") + "/.well-known/openid-configuration")
    try:
        provider = Provider(**{name: str(found[name]) for name in Provider.__slots__})
    except KeyError as error:
        raise ConfigError("the OpenID provider's description is incomplete", where=issuer) from error
    if provider.issuer != issuer:
        raise ConfigError(
            "the OpenID provider calls itself otherwise", expected="security.oidc.issuer as it says it"
        )
    for address in (provider.authorization_endpoint, provider.token_endpoint, provider.jwks_uri):
        _check_address(address)
    return provider


def _fetched(address: str) -> dict[str, Any]:
    import requests

    _check_address(address)
    try:
        answer = requests.get(address, timeout=_TIMEOUT_S, allow_redirects=False)
        answer.raise_for_status()
        found = answer.json()
    except (requests.RequestException, ValueError) as error:
        raise ForbiddenError(f"the OpenID provider does not answer ({type(error).__name__})") from error
    if not isinstance(found, dict):
        raise ForbiddenError("the OpenID provider answers something else")
    return found


def _check_address(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise ConfigError(
            "an address of the OpenID provider is not https", remedy="correct security.oidc.issuer"
        )


def _client(request: Request, settings: OidcSettings) -> Any:
    from authlib.integrations.requests_client import OAuth2Session

    secret = None if settings.client_secret_file is None else read_secret(settings.client_secret_file)
    public = store_of(request).settings.server.public_url or str(request.base_url)
    return OAuth2Session(
        settings.client_id,
        secret,
        scope="openid profile",
        redirect_uri=public.rstrip("/") + "/login/oidc/callback",
        code_challenge_method="S256",
        token_endpoint_auth_method="none" if secret is None else "client_secret_basic",
    )


def _name(claims: Mapping[str, Any]) -> str:
    return str(claims.get("preferred_username") or claims.get("email") or claims["sub"])


def _role(settings: OidcSettings, claims: Mapping[str, Any]) -> str | None:
    """The highest of our roles that the claim names, as text or in a list."""
    said = claims.get(settings.role_claim)
    named = said if isinstance(said, list) else [said]
    return next((role for role in reversed(ROLES) if role in named), None)


def _hour() -> int:
    return int(time.monotonic() // _KEYS_S)
