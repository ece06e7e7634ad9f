"""Hypothesis profiles, and what need not be done anew for every test.

The profile ``test`` draws the same examples in every run, ``fuzz`` (make fuzz) new ones.
"""

import pytest
import typer.main
import typer.testing
from hypothesis import settings

settings.register_profile("test", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("fuzz", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("test")  # pytest --hypothesis-profile=fuzz is loaded after this


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that no process is left with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def quick_exports():
    """Networks are exported without being traced anew; ``learning/test_export.py`` does without."""
    import torch  # most tests do without

    from tests.learning import exports

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.onnx, "export", exports.export)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_command_tree():
    """Typer builds all commands for each one that is given, in a quarter of a second; here once."""
    build, built = typer.main.get_command, {}

    def get_command(app):
        key = id(app), len(app.registered_commands), len(app.registered_groups)
        if key not in built:
            built[key] = app, build(app)
        return built[key][1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(typer.main, "get_command", get_command)
        patched.setattr(typer.testing, "_get_command", get_command)
        yield
