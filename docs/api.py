"""The reference of the HTTP interface, from the schema that the server publishes: `python docs/api.py [FILE]` writes `api.md`.

Covered: routes, parameters, bodies, answers. Not covered: what errors mean (the table at its end is `service/errors.py`'s).
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from service.app import create_app
from service.errors import STATUS, code_of
from service.settings import Settings

FILE = Path(__file__).with_name("api.md")
HEAD = """# The HTTP interface

Made from `/openapi.json` by `python docs/api.py`; a test compares. Every error has the body
`{"error": {"message", "type", "param", "code"}}` and a status of the table at the end. Every answer carries `x-request-id`: the
client's own if it sent one.
"""


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as directory:
        schema = create_app(Settings(data_dir=Path(directory), model=None)).openapi()
    (Path(sys.argv[1]) if sys.argv[1:] else FILE).write_text(reference(schema))


def reference(schema: dict[str, Any]) -> str:
    """The whole page, from what a server publishes."""
    models = schema["components"]["schemas"]
    parts = [HEAD]
    for path, methods in schema["paths"].items():
        parts += [_route(method.upper(), path, route, models) for method, route in methods.items()]
    return "\n".join([*parts, *_errors()])


def _errors() -> list[str]:
    rows = [f"| {status} | `{code_of(kind(''))}` | {(kind.__doc__ or '').splitlines()[0]} |" for kind, status in STATUS.items()]
    other = "| 404, 405, ... | `http_error` | There is no such route or method, or the body is no JSON that can be read. |"
    return ["## Errors", "", "| status | code | |", "|---|---|---|", *sorted(rows), other, ""]


def _route(method: str, path: str, route: dict[str, Any], models: dict[str, Any]) -> str:
    lines = [f"## {method} {path}", "", str(route.get("description") or route.get("summary", "")).strip(), ""]
    fields = [(p["name"], p["in"], p.get("required", False), p["schema"]) for p in route.get("parameters", [])]
    for content in route.get("requestBody", {}).get("content", {}).values():
        body = _resolved(content["schema"], models)
        needed = body.get("required", [])
        fields += [(name, "body", name in needed, schema) for name, schema in body.get("properties", {}).items()]
    if fields:
        lines += ["| field | in | type | default | |", "|---|---|---|---|---|"]
        lines += [_field(name, where, needed, _resolved(schema, models)) for name, where, needed, schema in fields]
        lines.append("")
    good = [f"`{status}`" for status in route["responses"] if status.startswith("2")]
    return "\n".join([*lines, f"Answers {', '.join(good)} when it goes well.", ""])


def _field(name: str, where: str, needed: bool, schema: dict[str, Any]) -> str:
    default = "required" if needed else f"`{schema['default']!r}`" if "default" in schema else ""
    words = " ".join(str(schema.get("description", "")).split()).replace("|", "\\|")
    return f"| `{name}` | {where} | {_type(schema)} | {default} | {words} |"


def _type(schema: dict[str, Any]) -> str:
    """In words, with bounds."""
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum", schema.get("exclusiveMaximum"))
    bounds = "" if low is None and high is None else f" {'' if low is None else low}..{'' if high is None else high}"
    return f"{schema.get('type', schema.get('$ref', 'any').rpartition('/')[2])}{bounds}"


def _resolved(schema: dict[str, Any], models: dict[str, Any]) -> dict[str, Any]:
    return models[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


if __name__ == "__main__":
    main()
