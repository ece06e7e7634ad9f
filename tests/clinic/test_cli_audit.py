"""``pneumoscope audit``: the log is verified and shown."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pneumoscope.cli.main import app
from pneumoscope.core.errors import InputError
from pneumoscope_clinic.store import audit_log
from tests.clinic.stores import make_store

run = CliRunner().invoke


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    store = make_store(tmp_path)
    with store.write() as session:
        for number in range(5):
            audit_log.append(store, session, "anna", "test.done", f"object-{number}", number=number)
    store.close()
    return ["--data-dir", str(tmp_path / "data")]


def test_a_whole_log_is_verified_and_its_head_is_printed(flags: list[str]) -> None:
    result = run(app, ["audit", "verify", *flags])
    assert result.exit_code == 0
    assert "5 rows, none altered." in result.stdout
    head = result.stdout.split("head: ")[1].strip()
    assert run(app, ["audit", "verify", "--head", head, *flags]).exit_code == 0
    found = json.loads(run(app, ["audit", "verify", "--json", *flags]).stdout)
    assert found == {"rows": 5, "head": head, "broken_at": None, "reason": ""}


def test_an_altered_row_is_an_error(flags: list[str]) -> None:
    with sqlite3.connect(Path(flags[1]) / "clinic.db") as connection:
        connection.execute("UPDATE audit_log SET actor = 'ben' WHERE id = 3")
    connection.close()
    result = run(app, ["audit", "verify", *flags])
    assert isinstance(result.exception, InputError)
    assert result.exception.where == "row 3"
    assert result.exception.exit_code == 2


def test_rows_cut_off_the_end_show_against_a_noted_head(flags: list[str]) -> None:
    head = json.loads(run(app, ["audit", "verify", "--json", *flags]).stdout)["head"]
    with sqlite3.connect(Path(flags[1]) / "clinic.db") as connection:
        connection.execute("DELETE FROM audit_log WHERE id > 3")
    connection.close()
    assert run(app, ["audit", "verify", *flags]).exit_code == 0
    assert isinstance(run(app, ["audit", "verify", "--head", head, *flags]).exception, InputError)


def test_the_last_rows_are_shown_the_newest_last(flags: list[str]) -> None:
    lines = run(app, ["audit", "show", "--last", "2", *flags]).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["4", "5"]
    assert "anna test.done object-4 number=4" in lines[1]
    rows = [json.loads(line) for line in run(app, ["audit", "show", "--json", *flags]).stdout.splitlines()]
    assert [row["detail"]["number"] for row in rows] == [0, 1, 2, 3, 4]
