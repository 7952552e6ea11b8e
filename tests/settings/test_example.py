"""The example of all settings, ``etc/fxprofile.toml``, against the settings that there are."""

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

#: What has no default that a file could hold.
COMPUTED = {"crunch.processes": 2}


def keys_of(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Each key with its default."""
    keys: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            keys |= keys_of(type(default), f"{prefix}{name}.")
        else:
            keys[prefix + name] = default
    return keys


def documented() -> dict[str, Any]:
    """Each key of the example, as if it were not commented out."""
    text = re.sub(r"^#(?=[a-z_]+ = |\[\[)", "", EXAMPLE.read_text(), flags=re.MULTILINE)
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

    def test_keys(self) -> None:
        """It has every key that there is, and no other."""
        self.assertEqual(set(documented()), set(keys_of(Settings)))

    def test_defaults(self) -> None:
        """It gives each key its default; what is unset by default is empty there."""
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

    def test_usable(self) -> None:
        """It can be used as it is."""
        self.assertEqual(load(config=str(EXAMPLE), environ={}), load(environ={}))
