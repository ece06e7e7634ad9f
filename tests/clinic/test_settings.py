"""Settings: usable without a line, from file, environment and flags, and strict."""

import pytest

from pneumoscope.core.errors import ConfigError
from pneumoscope_clinic.settings import load_settings

FHIR = '[[destinations]]\nname = "f"\nkind = "fhir"\nurl = "http://x/"\n'


def test_nothing_needs_to_be_set():
    settings = load_settings(None, None, {})
    assert settings.server.host == settings.dicom.host == "127.0.0.1"
    assert settings.database_url == f"sqlite:///{settings.directory / 'clinic.db'}"
    assert settings.key_file == settings.directory / "secret.key"
    assert settings.bundle == "reference"
    assert not settings.shadow


def test_flags_win_over_environment_over_file(tmp_path):
    file = tmp_path / "clinic.toml"
    file.write_text('workers = 3\nlanguage = "fr"\n[server]\nport = 1\n[[dicom.peers]]\nae_title = "PACS"\n')
    environment = {"PNEUMOSCOPE_CLINIC__SERVER__PORT": "2", "PNEUMOSCOPE_CLINIC__LANGUAGE": "es"}
    settings = load_settings(file, {"language": "zh", "workers": None}, environment)
    assert (settings.workers, settings.server.port, settings.language) == (3, 2, "zh")
    assert settings.dicom.peers[0].ae_title == "PACS"


def test_the_environment_may_name_the_file_and_hold_lists(tmp_path):
    file = tmp_path / "clinic.toml"
    file.write_text("workers = 5\n")
    environment = {
        "PNEUMOSCOPE_CONFIG": str(file),
        "PNEUMOSCOPE_CLINIC__DESTINATIONS": '[{"name": "fhir", "kind": "fhir", "url": "http://x/"}]',
        "PNEUMOSCOPE_CLINIC__SHADOW": "true",
    }
    settings = load_settings(None, None, environment)
    assert (settings.workers, settings.destinations[0].name, settings.shadow) == (5, "fhir", True)


def test_secrets_are_not_shown():
    settings = load_settings(None, {"database.url": "postgresql+psycopg://u:geheim@h/d"}, {})
    assert settings.database_url.endswith("geheim@h/d")
    assert "geheim" not in repr(settings)
    assert "geheim" not in settings.model_dump_json()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("worker = 1", "unknown key 'worker'"),
        ("[server]\nprot = 1", "unknown key 'server.prot'"),
        ("[server]\nport = 70000", "'server.port'"),
        ("[monitoring]\nfalse_alarm_rate = 2", "'monitoring.false_alarm_rate'"),
        ('[[destinations]]\nname = "a b"\nkind = "dimse"', "'destinations.0.name'"),
        ('[[destinations]]\nname = "a"\nkind = "mail"', "'destinations.0.kind'"),
        ("workers = ", "TOML"),
        ('language = "de"', "'language': no such language; expected one of en, es, fr, zh (got 'de')"),
        ('language = "../en"', "'language'"),
        (
            '[server]\npublic_url = "pneumoscope.hospital"',
            "'server.public_url': not an address; expected http",
        ),
        ('[server]\npublic_url = "https:///path"', "'server.public_url'"),
        ('[server]\npublic_url = "https://a b"', "'server.public_url'"),
        ('[server]\npublic_url = "https://host:port"', "'server.public_url'"),
        ('[server]\ntrusted_proxies = ["10.0.0.1", "foo"]', "'server.trusted_proxies.1': not an address"),
        ('[server]\ntrusted_proxies = ["*"]', "(got '*')"),
        ('[monitoring]\nwebhook_url = "foo"', "'monitoring.webhook_url' is not an address"),
        ('[dicomweb]\nurl = "pacs"', "'dicomweb.url'"),
        ('[security.oidc]\nissuer = "https://login.example"', "'security.oidc': an issuer needs a client_id"),
        ('[security.oidc]\nissuer = "login"\nclient_id = "a"', "'security.oidc.issuer'"),
        (
            '[security.oidc]\nclient_secret_file = "/no/s"',
            "'security.oidc.client_secret_file': there is no such",
        ),
        (
            '[dicomweb]\npassword_file = "/no/p"',
            "'dicomweb.password_file': there is no such file (got '/no/p')",
        ),
        ('[dicom]\ntls_key = "/no/k"', "'dicom.tls_key': there is no such file"),
        ('[monitoring]\nwebhook_token_file = "/"', "'monitoring.webhook_token_file': there is no such file"),
        (FHIR + 'token_file = "/no/t"', "'destinations.0.token_file': there is no such file (got '/no/t')"),
        (FHIR + 'password_file = "/no/p"', "'destinations.0.password_file'"),
        (FHIR + FHIR, "'destinations': two destinations are called 'f'; expected a name of its own"),
        (FHIR.replace("http", "ftp"), "'destinations.0.url': not an address; expected http:// or https://"),
        (FHIR.replace("http://x/", "foo"), "'destinations.0.url'"),
        ('[dicom]\nae_title = "A\\\\B"', "'dicom.ae_title': not an AE title; expected 1 to 16 ASCII"),
        ('[dicom]\nae_title = "  "', "'dicom.ae_title'"),
        ('[dicom]\nae_title = "A2345678901234567"', "'dicom.ae_title'"),
        ('[[dicom.peers]]\nae_title = "A\\nB"', "'dicom.peers.0.ae_title'"),
        (
            '[[destinations]]\nname="p"\nkind="dimse"\nhost="h"\nport=1\nae_title="\u00c4"',
            "'destinations.0.ae_title'",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, said):
    file = tmp_path / "clinic.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(file, None, {})
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
    assert any(word in str(caught.value) for word in ("expected", "correct the", "see docs"))


def test_an_address_that_may_hold_a_secret_is_not_shown():
    with pytest.raises(ConfigError) as caught:
        load_settings(None, {"monitoring.webhook_url": "hooks.example/geheim"}, {})
    assert "geheim" not in str(caught.value)


def test_what_is_right_is_taken(tmp_path):
    (tmp_path / "token").write_text("t")
    (tmp_path / "clinic.toml").write_text(
        'language = "zh"\n[server]\npublic_url = "https://pneumoscope.hospital:8443/x"\n'
        'trusted_proxies = ["10.0.0.0/8", "::1"]\n[dicom]\nae_title = " LUNG [1] "\n'
        f'[monitoring]\nwebhook_url = "http://127.0.0.1:9/x"\nwebhook_token_file = "{tmp_path}/token"\n'
        '[security.oidc]\nissuer = "https://login.example/r"\nclient_id = "a"\n'
        f'{FHIR}token_file = "{tmp_path}/token"\n' + FHIR.replace('"f"', '"g"')
    )
    settings = load_settings(tmp_path / "clinic.toml", None, {})
    assert settings.dicom.ae_title == "LUNG [1]"
    assert [destination.name for destination in settings.destinations] == ["f", "g"]
    assert settings.server.trusted_proxies == ("10.0.0.0/8", "::1")
