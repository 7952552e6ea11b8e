"""Tests that ``etc/fxprofile.toml`` documents the settings as the code defines them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.settings.load import load
from fxprofile.settings.model import Settings

EXAMPLE = Path(__file__).parents[2] / "etc" / "fxprofile.toml"

#: Defaults that are computed at start-up, as the file shows them.
COMPUTED = {"crunch.processes": 2, "crunch.heic": False}


def keys_of(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Return each key of a model with its default."""
    keys: dict[str, Any] = {}
    # Some defaults depend on the earlier ones.
    earlier: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data=earlier)
        earlier[name] = default
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys |= keys_of(field.annotation, f"{prefix}{name}.")
        else:
            keys[prefix + name] = default
    return keys


def documented() -> dict[str, Any]:
    """Return each key of the example with its value, as if none were commented out."""
    text = re.sub(r"^#(?=[a-z_.]+ = |    \{|\])", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    keys: dict[str, Any] = {}

    def walk(members: dict[str, Any], prefix: str) -> None:
        for name, value in members.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{name}.")
            else:
                keys[prefix + name] = value

    walk(tomllib.loads(text), "")
    return keys


class ExampleTests(SynchronousTestCase):
    """``etc/fxprofile.toml``."""

    def test_every_setting_is_documented(self) -> None:
        """The example has every key of the settings, and no other."""
        self.assertEqual(set(documented()), set(keys_of(Settings)))

    def test_documented_defaults_are_those_of_the_code(self) -> None:
        """The example gives each key its default, or an empty text if it is unset by default."""
        defaults = keys_of(Settings)
        for key, value in documented().items():
            default = COMPUTED.get(key, defaults[key])
            if key == "identity.dev.accounts":
                self.assertEqual(value[0]["token"], default[0].token.get_secret_value())
                self.assertEqual(value[0]["scopes"], list(default[0].scopes))
                continue
            if isinstance(default, SecretStr):
                default = default.get_secret_value()
            if isinstance(default, tuple):
                default = list(default)
            if isinstance(default, Path):
                default = str(default)
            self.assertEqual(value, "" if default is None else default, key)

    def test_example_changes_nothing(self) -> None:
        """The example, loaded as it is, gives the default settings."""
        self.assertEqual(load(config=str(EXAMPLE), environ={}), load(environ={}))
