"""What the package promises: its public names, and a light import graph for help and prediction."""

import json
import os
import subprocess
import sys

import pytest

import pneumoscope
from tests.films import write_film
from tests.tiny_bundle import write_tiny_bundle

HEAVY = ("torch", "lightning", "transformers", "sklearn", "scipy", "matplotlib", "pandas", "rich.progress")

SPY = """
import json, sys
from pneumoscope.cli.main import main
sys.argv = ["pneumoscope", *json.loads(sys.argv[1])]
try:
    main()
finally:
    print("MODULES " + json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def loaded(code, *arguments):
    """Names of the modules that a fresh interpreter holds after ``code``, which prints them."""
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    line = next(line for line in result.stderr.splitlines() if line.startswith("MODULES "))
    return set(json.loads(line.removeprefix("MODULES "))), result.stdout


def test_public_names():
    assert sorted(pneumoscope.__all__) == [
        "Dataset",
        "__version__",
        "commission",
        "compare",
        "cross_validate",
        "evaluate",
        "examine",
        "examine_many",
        "figures",
        "import_dataset",
        "load_bundle",
        "overlay",
        "read_radiograph",
        "train",
    ]
    assert set(dir(pneumoscope)) == set(pneumoscope.__all__)
    plain = {"__version__", "figures"}
    assert all(callable(getattr(pneumoscope, name)) for name in pneumoscope.__all__ if name not in plain)
    assert {name for name in dir(pneumoscope.figures) if name.endswith(("curve", "curves", "matrix"))} == {
        "confusion_matrix", "learning_curves", "roc_curve",
    }  # fmt: skip
    with pytest.raises(AttributeError, match="no attribute 'diagnose'"):
        pneumoscope.diagnose  # noqa: B018


def test_five_lines_of_python(tmp_path):
    write_tiny_bundle(tmp_path / "tiny")
    path = write_film(tmp_path / "film.png", 0.8)
    import pneumoscope as ps

    bundle = ps.load_bundle(tmp_path / "tiny")
    result = ps.examine(path, bundle)
    picture = ps.overlay(ps.read_radiograph(path).pixels, result.explanation.heat_map)
    assert result.prediction.decision == "POSITIVE"
    assert picture.shape == (120, 160, 3)


def test_importing_the_package_loads_nothing_else():
    code = "import sys, json, pneumoscope; print('MODULES', json.dumps(sorted(sys.modules)), file=sys.stderr)"
    modules, _ = loaded(code)
    assert not {"numpy", "PIL", "onnxruntime", "pydantic", "typer", *HEAVY} & modules


def test_help_is_light():
    modules, output = loaded(SPY, json.dumps(["--help"]))
    assert "predict" in output
    assert not {"onnxruntime", "pydicom", "pydantic", *HEAVY} & modules


def test_prediction_is_light(tmp_path):
    """Without torch; pydantic is there only because Typer parses the arguments with it."""
    bundle = write_tiny_bundle(tmp_path / "tiny")
    film = write_film(tmp_path / "film.png", 0.8)
    arguments = ["predict", "--json", str(film), "--bundle", str(bundle.directory)]
    modules, output = loaded(SPY, json.dumps(arguments))
    assert json.loads(output)["decision"] == "POSITIVE"
    assert "onnxruntime" in modules
    assert not {"pydicom", "pneumoscope.core.config", "rich", "jinja2", *HEAVY} & modules


@pytest.mark.parametrize(("explain", "needed"), [(False, set()), (True, {"scipy"})])
def test_the_library_predicts_without_pydantic(tmp_path, explain, needed):
    """Explaining needs scipy, to outline the lungs."""
    bundle = write_tiny_bundle(tmp_path / "tiny")
    film = write_film(tmp_path / "film.png", 0.8)
    code = (
        "import sys, json, pneumoscope as ps\n"
        f"ps.examine(sys.argv[2], ps.load_bundle(sys.argv[1]), explain={explain})\n"
        "print('MODULES', json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    modules, _ = loaded(code, str(bundle.directory), str(film))
    assert {"pydantic", "pydicom", "typer", "rich", *HEAVY} & modules == needed


def test_nothing_is_told_to_anybody(tmp_path):
    """ONNX Runtime has telemetry; it must not even open its files."""
    bundle = write_tiny_bundle(tmp_path / "tiny").directory
    code = "import sys, pneumoscope; pneumoscope.load_bundle(sys.argv[1]).session"
    home = tmp_path / "home"
    home.mkdir()
    hidden = {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    subprocess.run(
        [sys.executable, "-c", code, str(bundle)], check=True, env={**environment, "HOME": str(home)}
    )
    assert list(home.rglob("*")) == []
