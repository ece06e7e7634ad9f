"""Settings: usable without a line, from file, environment and flags, and strict."""

import pytest

from pneumoscope.clinic.settings import load_settings
from pneumoscope.core.errors import ConfigError


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
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, said):
    file = tmp_path / "clinic.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(file, None, {})
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
