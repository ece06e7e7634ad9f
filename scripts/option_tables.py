"""Write the option tables of docs/configuration.md from the configuration models.

Keys and defaults come from the models. What a key means stays as the page has it; a new key gets the model's
description. ``python -m scripts.option_tables`` rewrites the page; a test says whether it is current.

A table stands between ``<!-- options MODULE:MODEL [prefix=P] [without=A,B] [flat=yes] -->`` and
``<!-- end -->``; nested tables of a model become dotted keys, unless it is flat.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
_TABLE = re.compile(
    r"<!-- options (?P<model>[\w.]+:\w+)(?P<how>[^>]*) -->\n(?P<table>.*?)<!-- end -->", re.DOTALL
)
_ROW = re.compile(r"^\| `(?P<key>[\w.]+)` \|.*?(?<!\\)\| (?P<meaning>.*?) ?\|$", re.MULTILINE)


def generated(text: str) -> str:
    """The page ``text`` with every table as its model has it."""
    return _TABLE.sub(_rewritten, text)


def _rewritten(found: re.Match[str]) -> str:
    module, name = found["model"].split(":")
    how = dict(word.split("=") for word in found["how"].split())
    meanings = {row["key"]: row["meaning"] for row in _ROW.finditer(found["table"])}
    rows = [
        f"| `{key}` | {_default(field)} | {meanings.get(key) or field.description or ''} |"
        for key, field in _fields(getattr(import_module(module), name), how.get("prefix", ""), how)
    ]
    table = "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])
    return f"<!-- options {found['model']}{found['how']} -->\n{table}\n<!-- end -->"


def _fields(model: type[BaseModel], prefix: str, how: Mapping[str, str]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if name in how.get("without", "").split(","):
            continue
        if isinstance(field.default, BaseModel) and "flat" not in how:
            yield from _fields(type(field.default), f"{prefix}{name}.", {})
        else:
            yield prefix + name, field


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None:
        return "none"
    return f"`{json.dumps(to_jsonable_python(default))}`"


if __name__ == "__main__":
    PAGE.write_text(generated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
