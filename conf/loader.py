"""From a YAML file and ``--set`` overrides to a validated ``Config``, and back."""

import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import yaml
from pydantic import ValidationError

from conf import storage
from conf.errors import ConfigError
from conf.schema import Config


class _Loader(yaml.CSafeLoader):  # what is in C is ten times as fast
    """YAML 1.1 as people read it: 1e-4 is a number and 2024-01-01 stays the text it is."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (as in the class above it)
        first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """Read, override and validate the configuration of a run.

    Args:
        path: YAML file.
        overrides: ``dotted.key=value`` items; the value is YAML, list items go by number
            (``fields.0.min_count=5``).

    Raises:
        ConfigError: The file is missing or no YAML, or a key or value is wrong; names each.
    """
    try:
        text = storage.read_text(path)
    except (OSError, ValueError, ImportError) as error:  # no file, no text, no such kind of URL
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"config file '{path}': {reason}; give one with --config") from None
    data = _parse(text, path)
    if not isinstance(data, dict):
        raise ConfigError(f"config file '{path}': expected a mapping of keys, found {data!r:.60}")
    for item in overrides:
        _override(data, item)
    return _validate(_over_preset(data), path)


def override_config(config: Config, values: Mapping[str, Any], origin: str) -> Config:
    """The configuration with other values, validated as a whole.

    Args:
        config: Of a run.
        values: By dotted key, as in ``--set``.
        origin: Where the values come from, for messages.

    Raises:
        ConfigError: A key or value is wrong; names each.
    """
    data = config.model_dump(mode="json")
    for key, value in values.items():
        _override(data, f"{key}={json.dumps(value)}")
    return _validate(data, origin)


def value_of(config: Config, key: str) -> Any:
    """What a configuration says for a dotted key that it has, as plain data."""
    value: Any = config.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML that ``load_config`` reads back to an equal one."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=yaml.CSafeDumper, sort_keys=False)


def _parse(text: str, origin: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not valid YAML: {' '.join(str(error).split())}") from None


def _override(data: dict[str, Any], item: str) -> None:
    dotted, equals, text = item.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"--set {item}: expected dotted.key=value, e.g. train.epochs=5")
    *parents, last = dotted.split(".")
    node: Any = data
    try:
        for key in parents:
            node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
        node[int(last) if isinstance(node, list) else last] = _parse(text, f"--set {item}")
    except (ValueError, IndexError, TypeError, AttributeError):
        raise ConfigError(f"--set {item}: no such key in the configuration") from None


def _over_preset(data: dict[str, Any]) -> dict[str, Any]:
    """The data over the values of the preset that it names, which is then part of it."""
    name = data.get("preset")
    if name is None:
        return data
    presets = files("conf").joinpath("presets")
    known = sorted(file.name.removesuffix(".yaml") for file in presets.iterdir())
    if name not in known:
        raise ConfigError(f"preset: there is no '{name}', there are {', '.join(known)}")
    preset = _parse(presets.joinpath(f"{name}.yaml").read_text(), f"preset {name}")
    return _merged(preset, data) | {"preset": None}


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Mappings are merged key by key; anything else from above takes the place of what is below."""
    both = {
        key: _merged(below[key], above[key])
        for key in below.keys() & above.keys()
        if isinstance(below[key], dict) and isinstance(above[key], dict)
    }
    return below | above | both


def _validate(data: dict[str, Any], origin: str) -> Config:
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        problems = [_problem(dict(entry)) for entry in error.errors()]
        raise ConfigError("\n".join([f"{origin}:", *problems])) from None


def _problem(entry: dict[str, Any]) -> str:
    location = ".".join(str(part) for part in entry["loc"])
    message = entry["msg"].removeprefix("Value error, ")
    if entry["type"] not in ("missing", "value_error"):
        message += f", found {entry['input']!r:.60}"
    return f"  {location or 'top level'}: {message}"
