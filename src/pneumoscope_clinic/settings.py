"""Settings of a clinic: one validated configuration with a default for everything.

Sources, the later wins: a TOML file (``--config`` or PNEUMOSCOPE_CONFIG), environment variables
``PNEUMOSCOPE_CLINIC__TABLE__KEY``, flags. Secrets are named by file or come from the environment.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pneumoscope.core.config import Config, load_config
from pneumoscope.core.errors import ConfigError

_PREFIX = "PNEUMOSCOPE_CLINIC__"
_MADE = ("data_dir", "privacy.key_file")
"""Paths that the first start makes."""

CATALOGUES = Path(__file__).resolve().parent / "web" / "catalogues"
SOURCE_LANGUAGE = "en"


def languages() -> tuple[str, ...]:
    """Codes of all languages, English first."""
    return (SOURCE_LANGUAGE, *sorted(file.stem for file in CATALOGUES.glob("*.po")))


def is_web_address(value: str) -> bool:
    """``http://`` or ``https://`` and a host, no space; a port is a number."""
    if re.search(r"\s", value):
        return False
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _web_address(value: str) -> str:
    if not is_web_address(value):
        raise PydanticCustomError("web_address", "not an address; expected http:// or https:// and a host")
    return value


def _network(value: str) -> str:
    try:
        ip_network(value)
    except ValueError as error:
        raise PydanticCustomError(
            "network", "not an address or network; expected for instance 10.0.0.5 or 10.0.0.0/24"
        ) from error
    return value


def _ae_title(value: str) -> str:
    """PS3.5 section 6.2, VR AE."""
    if not re.fullmatch(r"[ -\[\]-~]{1,16}", value) or not value.strip():
        raise PydanticCustomError(
            "ae_title", "not an AE title; expected 1 to 16 ASCII characters, neither backslash nor control"
        )
    return value.strip()


def _language(value: str) -> str:
    if value not in languages():
        raise PydanticCustomError(
            "language", "no such language; expected one of {known}", {"known": ", ".join(languages())}
        )
    return value


Language = Annotated[str, AfterValidator(_language)]
"""Code of a catalogue, or English."""
WebAddress = Annotated[str, AfterValidator(_web_address)]
"""``http://`` or ``https://`` with a host."""
Network = Annotated[str, AfterValidator(_network)]
"""IP address or network (CIDR)."""
AeTitle = Annotated[str, AfterValidator(_ae_title)]
"""Title of an application entity, without the spaces around it, which do not count."""


class DatabaseSettings(Config):
    """Where studies, jobs, accounts and the audit log are kept."""

    url: SecretStr | None = None
    """SQLAlchemy URL, ``postgresql+psycopg://...``; None is ``clinic.db`` (SQLite) in the data directory."""


class ServerSettings(Config):
    """The web server."""

    host: str = "127.0.0.1"
    port: int = Field(8765, ge=0, le=65535)
    processes: int = Field(1, ge=1, le=64)
    public_url: WebAddress | None = None
    """As the browser sees it; an https one makes cookies secure and sends HSTS."""
    trusted_proxies: tuple[Network, ...] = ("127.0.0.1",)
    """Addresses and networks whose X-Forwarded-For and -Proto are believed."""
    max_upload_mb: float = Field(100, gt=0, le=4096)
    request_seconds: float = Field(60, gt=0, le=3600)
    """Longest time for a request's body to arrive, and for a synchronous examination."""
    header_seconds: float = Field(10, gt=0, le=600)
    """Longest time for a request's header to arrive."""
    max_connections: int = Field(200, ge=1)
    open_metrics: bool = False
    """/metrics answers without a token."""


class LimitSettings(Config):
    """What one image may cost."""

    film_seconds: float = Field(60, gt=0)
    film_memory_mb: int = Field(2000, ge=200)
    """Address space that the examining process may take beyond what it has when it is ready."""
    attempts: int = Field(3, ge=1)
    """How often an image may end its examining process before it is given up."""
    lease_seconds: float = Field(15, gt=0)
    """A job whose worker has not been heard of for this long goes to another."""


class Peer(Config):
    """Who may connect to the DICOM node."""

    ae_title: AeTitle
    address: str | None = None
    """IP address or network (CIDR); None is any address."""


class Destination(Config):
    """Where results go."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")
    kind: Literal["dimse", "stow", "fhir"]
    host: str | None = None
    port: int | None = Field(None, ge=1, le=65535)
    ae_title: AeTitle | None = None
    tls: bool = False
    url: WebAddress | None = None
    user: str | None = None
    password_file: Path | None = None
    token_file: Path | None = None
    objects: tuple[Literal["sr", "sc", "gsps", "pdf"], ...] = ("sr", "sc")
    """Kinds of DICOM objects that are sent (dimse, stow)."""

    @model_validator(mode="after")
    def _complete(self) -> Destination:
        needed = ("host", "port", "ae_title") if self.kind == "dimse" else ("url",)
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"a {self.kind} destination needs {' and '.join(missing)}")
        return self


class DicomSettings(Config):
    """The DICOM node."""

    ae_title: AeTitle = "PNEUMOSCOPE"
    host: str = "127.0.0.1"
    port: int = Field(11112, ge=0, le=65535)
    peers: tuple[Peer, ...] = ()
    """Who may connect; empty: any AE title from this machine, nobody from elsewhere."""
    secondary_capture: bool = False
    """Accept Secondary Capture images, too."""
    max_associations: int = Field(10, ge=1, le=1000)
    max_pdu_bytes: int = Field(131_072, ge=4096, le=1 << 24)
    """Largest PDU that a peer may send."""
    timeout_seconds: float = Field(30, gt=0)
    """Longest silence of a peer, within a message and between two, and longest time to connect."""
    receive_seconds: float = Field(300, gt=0)
    """Longest time for one object to arrive."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    """Certificates of those who may connect; None asks the peer for none."""


class DicomwebSettings(Config):
    """The DICOMweb server that images are pulled from."""

    url: WebAddress | None = None
    user: str | None = None
    password_file: Path | None = None


class FhirSettings(Config):
    """What FHIR resources say."""

    identities: bool = False
    """Name the patient by identifier; otherwise the subject is a pseudonym."""


class PrivacySettings(Config):
    """What is kept of a patient, and how long."""

    keep_identities: Literal["never", "until-delivered", "always"] = "until-delivered"
    """Patient and study module of DICOM images, which results need on their way back."""
    key_file: Path | None = None
    """Key that images and identities are encrypted with; None: ``secret.key`` in the data directory."""
    retain_days: int | None = Field(None, ge=1)
    """Whole studies are deleted after so many days; None keeps them."""
    retain_film_days: int | None = Field(None, ge=1)
    """Pixels alone are deleted after so many days; answers stay."""


class OidcSettings(Config):
    """Log in by an OpenID Connect provider."""

    issuer: WebAddress | None = None
    client_id: str | None = None
    client_secret_file: Path | None = None
    role_claim: str = "pneumoscope_role"
    default_role: Literal["reader", "reviewer", "none"] = "none"
    """Role of a user whose claim names none; ``none`` refuses them."""

    @model_validator(mode="after")
    def _complete(self) -> OidcSettings:
        if self.issuer is not None and self.client_id is None:
            raise PydanticCustomError("client_id", "an issuer needs a client_id; expected both or neither")
        return self


class SecuritySettings(Config):
    """Log-ins and sessions."""

    session_hours: float = Field(12, gt=0, le=24 * 30)
    idle_minutes: float = Field(60, gt=0)
    login_attempts: int = Field(5, ge=1)
    """Failed log-ins of one name, or ten times as many from one address, before a pause."""
    login_pause_minutes: float = Field(15, gt=0)
    oidc: OidcSettings = OidcSettings()


class MonitoringSettings(Config):
    """What is watched, and who hears of it."""

    window: int = Field(200, ge=20)
    """Images of the present that are compared with the reference."""
    false_alarm_rate: float = Field(0.01, gt=0, lt=0.5)
    """Chance of any drift alarm in one check when nothing has changed."""
    min_agreement: float = Field(0.85, gt=0, lt=1)
    """Agreement with readers below which (upper limit of its interval) an alarm goes off."""
    check_minutes: float = Field(15, gt=0)
    webhook_url: SecretStr | None = None
    """Where alarms are sent; such addresses hold a secret often enough to be treated as one."""
    webhook_token_file: Path | None = None


class ClinicSettings(Config):
    """Everything that a clinic may set; the defaults run on one machine, for that machine alone."""

    data_dir: Path = Path("~/.local/share/pneumoscope")
    bundle: str = "reference"
    """Bundle of a new installation; later ones are activated by command."""
    operating_point: str | None = None
    workers: int = Field(2, ge=0, le=256)
    """Processes that examine images; 0 leaves it to other machines on the same database."""
    language: Language = "en"
    shadow: bool = False
    """Results are stored and monitored but shown and sent to nobody."""
    database: DatabaseSettings = DatabaseSettings()
    server: ServerSettings = ServerSettings()
    limits: LimitSettings = LimitSettings()
    dicom: DicomSettings = DicomSettings()
    dicomweb: DicomwebSettings = DicomwebSettings()
    destinations: tuple[Destination, ...] = ()
    deliver_days: float = Field(14, gt=0)
    """How long a result is sent again to a destination that does not take it."""
    fhir: FhirSettings = FhirSettings()
    privacy: PrivacySettings = PrivacySettings()
    security: SecuritySettings = SecuritySettings()
    monitoring: MonitoringSettings = MonitoringSettings()

    @field_validator("destinations")
    @classmethod
    def _named_once(cls, value: tuple[Destination, ...]) -> tuple[Destination, ...]:
        names = [destination.name for destination in value]
        for name in names:
            if names.count(name) > 1:
                raise PydanticCustomError(
                    "twice", "two destinations are called '{name}'; expected a name of its own for each",
                    {"name": name},
                )  # fmt: skip
        return value

    @property
    def directory(self) -> Path:
        """The data directory, ``~`` resolved."""
        return self.data_dir.expanduser().absolute()

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the database."""
        if self.database.url is not None:
            return self.database.url.get_secret_value()
        return f"sqlite:///{self.directory / 'clinic.db'}"

    @property
    def key_file(self) -> Path:
        """The file with the encryption key."""
        return (self.privacy.key_file or self.directory / "secret.key").expanduser()


def load_settings(
    file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> ClinicSettings:
    """Settings from defaults, ``file``, the environment and ``overrides``; the later wins.

    Args:
        file: TOML; None: the one that PNEUMOSCOPE_CONFIG names, if it does.
        overrides: flags by dotted key (``server.port``); None means not given.
        environment: None is that of the process. ``PNEUMOSCOPE_CLINIC__SERVER__PORT=80`` sets
            ``server.port``; lists and tables are given as JSON.

    Raises:
        ConfigError: the file cannot be parsed, a key is unknown, a value is out of range, or a file that it
            names does not exist.
    """
    environment = os.environ if environment is None else environment
    if file is None and environment.get("PNEUMOSCOPE_CONFIG"):
        file = Path(environment["PNEUMOSCOPE_CONFIG"])
    values = {
        name.removeprefix(_PREFIX).lower().replace("__", "."): _parsed(value)
        for name, value in environment.items()
        if name.startswith(_PREFIX)
    }
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    settings = load_config(ClinicSettings, file, {**values, **given})
    _require_webhook(settings, file)
    for key, path in _named_files(settings, ""):
        if key not in _MADE and not os.path.isfile(path.expanduser()):
            raise ConfigError(
                f"'{key}': there is no such file (got '{path}')",
                where=file,
                expected="a file that exists, readable by this user",
            )
    return settings


def _require_webhook(settings: ClinicSettings, file: Path | None) -> None:
    webhook = settings.monitoring.webhook_url
    if webhook is not None and not is_web_address(webhook.get_secret_value()):
        raise ConfigError(
            "'monitoring.webhook_url' is not an address; it is not shown, as it may hold a secret",
            where=file,
            expected="http:// or https:// and a host",
        )


def _named_files(value: Any, key: str) -> Iterator[tuple[str, Path]]:
    """Every path in the settings, with its dotted key."""
    if isinstance(value, Path):
        yield key, value
    elif isinstance(value, Config):
        for name in type(value).model_fields:
            yield from _named_files(getattr(value, name), f"{key}.{name}".lstrip("."))
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _named_files(item, f"{key}.{number}")


def _parsed(value: str) -> Any:
    """A list or table that is written as JSON, else the text itself."""
    if value[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            "an environment variable holds a list or table that is not JSON",
            expected='for instance ["10.0.0.5"]',
            remedy="correct the variables that begin with " + _PREFIX,
        ) from error


def read_secret(file: Path) -> str:
    """The password or token in ``file``.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return file.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the file with the password or token cannot be read", where=file) from error
