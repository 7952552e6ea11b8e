"""
A hook of MkDocs that writes the reference from the code.

A line ``<!-- from the code: NAME -->`` of a page is replaced by what the function of this name
in :data:`RENDERERS` returns.  So no table of settings, metrics or endpoints can be out of date.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from mkdocs.config import Config

import fxprofile.web
from fxprofile.admin.main import cli
from fxprofile.model.messages import Job, Op, Result, ResultStatus, Variant
from fxprofile.settings.model import ENVIRONMENT_PREFIX, Settings
from fxprofile.tap import Options
from fxprofile.telemetry.metrics import Metrics
from fxprofile.web.openapi import document
from fxprofile.web.operations import Operation

Json = dict[str, Any]

ROOT = Path(__file__).parents[2]

#: The id in examples.
_ID = "9f86d081884c7d659a2feaa0c55ad015"


def on_config(config: Config) -> Config:
    """Have "mkdocs serve" build again when the code changes."""
    config.watch.append(str(ROOT / "fxprofile"))
    return config


def on_page_markdown(markdown: str, **_: object) -> str:
    """Return the text of a page, with what is written from the code."""
    return re.sub(
        r"^<!-- from the code: (\w+) -->$",
        lambda match: RENDERERS[match[1]](),
        markdown,
        flags=re.MULTILINE,
    )


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table in Markdown."""
    lines = [[*head], ["---"] * len([*head])]
    lines += [[" ".join(str(cell).split()).replace("|", r"\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(value: object) -> str:
    """Return a value in code font, as one writes it in JSON and TOML."""
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def words(values: Iterable[object], last: str = "or") -> str:
    """Return values in code font, as a list in a sentence."""
    *first, final = map(code, values)
    return f"{', '.join(first)} {last} {final}" if first else final


# Settings


def settings() -> str:
    """Every setting: type, default, environment variable, and what the settings file says."""
    schema = Settings.model_json_schema()
    meanings, defaults = _settings_file()
    parts = []
    for key, kind in sorted(
        _setting_types(schema, schema["$defs"]), key=lambda pair: "." in pair[0]
    ):
        variable = ENVIRONMENT_PREFIX + key.upper().replace(".", "__")
        default = defaults[key]
        if key == "identity.dev.accounts":
            default = "`alice` and `bob`"
        elif default == "" or "default" not in kind:
            default = "unset"
        else:
            default = code(default)
        facts = table(
            ("type", "default", "environment"), [(_type_of(kind), default, code(variable))]
        )
        parts.append(f"### {key} {{ #{key} }}\n\n{facts}\n\n{meanings[key]}\n")
    return "\n".join(parts)


def _setting_types(schema: Json, shared: Json, prefix: str = "") -> Iterator[tuple[str, Json]]:
    for name, kind in schema["properties"].items():
        target = shared.get(kind.get("$ref", "").rpartition("/")[2])
        if target is None:
            yield prefix + name, kind
        else:
            yield from _setting_types(target, shared, f"{prefix}{name}.")


def _type_of(kind: Json) -> str:
    """Return the type of a setting in words."""
    options = [option for option in kind.get("anyOf", [kind]) if option.get("type") != "null"]
    option = options[0]
    if "anyOf" in option:
        return _type_of(option)
    if len(options) == 2:
        limits = {"minimum": kind.get("ge", 0), "maximum": kind.get("le")}
        return f"bytes, such as `10485760` or `10MiB`{_range(limits)}"
    if "enum" in option:
        return words(option["enum"])
    if "const" in option:
        return code(option["const"])
    if option["type"] == "array":
        items = option["items"]
        return f"a list of {words(items['enum'], 'and')}" if "enum" in items else "a list"
    names = {"string": "text", "integer": "a whole number", "boolean": "`true` or `false`"}
    return names.get(option["type"], "a number") + _range(option)


def _range(kind: Json) -> str:
    low, high = kind.get("minimum"), kind.get("maximum")
    parts = [f"at least {low:,}"] if low is not None else []
    parts += ["more than 0"] if "exclusiveMinimum" in kind else []
    parts += [f"at most {high:,}"] if high is not None else []
    return f" ({', '.join(parts)})" if parts else ""


def _settings_file() -> tuple[Mapping[str, str], Mapping[str, Any]]:
    """Return the comment and the default of each key in ``etc/fxprofile.toml``."""
    text = (ROOT / "etc/fxprofile.toml").read_text()
    meanings, comment, was_comment = {}, "", False
    for line in text.splitlines():
        if match := re.match(r"#([a-z_.]+) = ", line):
            meanings[match[1]] = comment
        elif match := re.match(r"# ?(.*)", line):
            comment = f"{comment} {match[1]}" if was_comment else match[1]
        was_comment = bool(re.match(r"# |#$", line))
    keys = re.sub(r"^#(?=[a-z_.]+ = |    \{|\])", "", text, flags=re.MULTILINE)
    return meanings, dict(_flat(tomllib.loads(keys)))


def _flat(members: Json, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in members.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


# Metrics and messages


def metrics() -> str:
    """Every metric of the service."""
    registered = Metrics()
    rows = []
    for attribute, row in vars(Metrics).items():
        metric = getattr(registered, attribute, None)
        if not hasattr(metric, "_labelnames"):
            continue
        suffix = {"counter": "_total", "info": "_info"}.get(metric._type, "")
        labels = words(metric._labelnames, "and") if metric._labelnames else ""
        text = metric._documentation
        if getattr(row, "known", ()) and not all(str(value) in text for value in row.known):
            text += f" Values: {words(map(str, row.known), 'and')}."
        rows.append((f"`{metric._name}{suffix}`", metric._type, labels, text))
    return table(("metric", "type", "labels", "meaning"), sorted(rows))


def messages() -> str:
    """An example of each message between the roles."""
    variants = {
        "default": Variant(200, 200, 41_337),
        "small": Variant(100, 100, 13_110),
        "large": Variant(600, 600, 298_004),
    }
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    examples: dict[str, str] = {}
    for op in Op:
        examples[f"jobs: {op}"] = Job(op, _ID, trace).encode(1_767_225_600)
    for status in ResultStatus:
        result = Result(
            id=_ID,
            status=status,
            reason="corrupt" if status is ResultStatus.FAILED else None,
            variants=variants if status is ResultStatus.READY else {},
            placeholder="LEHV6nWB2yk8pyo0adR*.7kCMdnj" if status is ResultStatus.READY else None,
            pixels=_ID * 2 if status is ResultStatus.READY else None,
            timing={"get": 0.0121, "crunch": 0.0402, "put": 0.0183},
            traceparent=trace,
        )
        examples[f"results: {status}"] = result.encode()
    return "\n".join(
        f"### {name}\n\n{_json(json.loads(text))}\n" for name, text in examples.items()
    )


def _json(value: object) -> str:
    return f"```json\n{json.dumps(value, indent=2, ensure_ascii=False)}\n```"


# Commands


def commands() -> str:
    """The help of each command of ``fxprofile-admin``."""
    return "\n".join(_help(cli, "fxprofile-admin"))


def _help(command: click.Command, path: str) -> Iterator[str]:
    options = {
        "info_name": path,
        "max_content_width": 90,
        "terminal_width": 90,
        "show_default": True,
    }
    with click.Context(command, **options) as context:
        yield f"### {path}\n\n```text\n{command.get_help(context)}\n```\n"
    for name, below in sorted(getattr(command, "commands", {}).items()):
        yield from _help(below, f"{path} {name}")


def daemon() -> str:
    """The help of ``twistd fxprofile``."""
    return f"```text\ntwistd fxprofile {Options()!s}\n```"


# The API


def endpoints() -> str:
    """Every endpoint of the OpenAPI document."""
    described = document(operations(), "https://profile.example.com")
    schemas = described["components"]["schemas"]
    parts = []
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            parts.append(_endpoint(f"{method.upper()} {path}", operation))
    parts.append("## Schemas\n")
    parts += [_schema(name, schema) for name, schema in sorted(schemas.items())]
    return "\n".join(parts)


def operations() -> Iterator[Operation]:
    """Yield every endpoint of the API."""
    for module in pkgutil.walk_packages(fxprofile.web.__path__, "fxprofile.web."):
        for kind in vars(importlib.import_module(module.name)).values():
            # Only those that the module itself defines.
            if isinstance(kind, type) and kind.__module__ == module.name:
                for member in vars(kind).values():
                    if isinstance(operation := getattr(member, "operation", None), Operation):
                        yield operation


def _endpoint(title: str, operation: Json) -> str:
    about = f"{operation['summary']}. {operation.get('description', '')}"
    lines = [f"### `{title}`\n", f"{about}\n"]
    if operation["security"] == [{"secret": []}]:
        lines.append("Needs the secret bearer token, `secret_bearer_token`.\n")
    if parameters := operation["parameters"]:
        rows = [(code(p["name"]), p["in"], p["description"]) for p in parameters]
        lines.append(table(("parameter", "in", "meaning"), rows) + "\n")
    if body := operation.get("requestBody"):
        kinds = [f"`{media}`{_of(content['schema'])}" for media, content in body["content"].items()]
        lines.append(f"Body: {', '.join(kinds)}. {body.get('description', '')}\n")
    rows = []
    example = None
    for status, response in sorted(operation["responses"].items()):
        content = response.get("content", {})
        kinds = [f"`{media}`{_of(body['schema'])}" for media, body in content.items()]
        rows.append((status, response["description"].replace("\n", "<br>"), ", ".join(kinds)))
        if example is None and int(status) < 300:
            example = next((_example(body) for body in content.values()), None)
    lines.append(table(("status", "meaning", "body"), rows) + "\n")
    if example is not None:
        lines.append(f"Example of a response:\n\n{_json(example)}\n")
    return "\n".join(lines)


def _of(schema: Json) -> str:
    name = schema.get("$ref", "").rpartition("/")[2]
    return f" [{name}](#{name.lower()})" if name else ""


def _example(content: Json) -> object:
    first = next(iter(content.get("examples", {}).values()), {})
    value = content.get("example", first.get("value"))
    return value if isinstance(value, dict) and value else None


def _schema(name: str, schema: Json) -> str:
    rows = []
    for field, kind in schema.get("properties", {}).items():
        options = [option for option in kind.get("anyOf", [kind]) if option.get("type") != "null"]
        text = kind.get("description", "")
        if values := options[0].get("enum"):
            text = f"{text} {words(values)}.".strip()
        required = "yes" if field in schema.get("required", ()) else "no"
        rows.append((code(field), options[0].get("type", "") + _of(options[0]), required, text))
    body = table(("field", "type", "always", "meaning"), rows) if rows else "No field."
    return f"### {name}\n\n{schema.get('description', '')}\n\n{body}\n"


RENDERERS: Mapping[str, Callable[[], str]] = {
    function.__name__: function
    for function in (settings, metrics, messages, commands, daemon, endpoints)
}
