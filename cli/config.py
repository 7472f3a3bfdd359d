"""Settings: flags beat the environment, the environment beats the file; one name in all three.

    --cluster-url      AHVAULT_CLUSTER_URL      [cluster] url
    --repository-url   AHVAULT_REPOSITORY_URL   [repository] url
    --worker VM=ROOT   AHVAULT_WORKERS          [[workers]] vm, access, device_root, ...

Secrets have no flag. A name that is not known is refused, with the name it was probably meant to be.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from cli.errors import ConfigInvalid, SettingMissing
from cli.options import ClusterOptions, CommonOptions, RepositoryOptions, WorkerOptions

FILE_NAME = "ahvault.toml"
FILE_VARIABLE = "AHVAULT_CONFIG"
PREFIX = "AHVAULT_"

_PATHS = (
    ("cluster", "password_file"),
    ("cluster", "api_key_file"),
    ("cluster", "ca_file"),
    ("cluster", "chap_secret_file"),
    ("repository", "url"),
    ("repository", "passphrase_file"),
    ("repository", "key_file"),
)

Values = dict[str, Any]
"""Settings by section and name, as they were given."""

Where = tuple[int | str, ...]
"""A setting's place in the tree: section, name, and what lies below."""


class ClusterSettings(BaseModel):
    """`[cluster]`: how to reach Prism Central."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str | None = None
    username: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    api_key: SecretStr | None = None
    api_key_file: Path | None = None
    ca_file: Path | None = None
    verify_tls: bool = True
    prism_element_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    iscsi_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    chap_secret: SecretStr | None = None
    chap_secret_file: Path | None = None


class RepositorySettings(BaseModel):
    """`[repository]`: where restore points are kept, and what opens it if it is encrypted.

    `storage_options` go to the store's driver.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str | None = None
    passphrase: SecretStr | None = None
    passphrase_file: Path | None = None
    key_file: Path | None = None
    storage_options: dict[str, Any] = Field(default_factory=dict, repr=False)


class WorkerSettings(BaseModel):
    """`[[workers]]`: one VM that moves data, how it reaches disks, and how many VMs it moves at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vm: Annotated[str, Field(min_length=1)]
    access: Literal["direct", "iscsi", "kernel-iscsi"] = "direct"
    device_root: Path = Path("/dev")
    initiator: Annotated[str, Field(max_length=64)] | None = None
    slots: Annotated[int, Field(ge=1, le=64)] = 4
    enabled: bool = True
    queue: Annotated[str, Field(min_length=1)] | None = None
    boot_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 300.0
    shutdown_timeout_s: Annotated[float, Field(ge=0, le=3600)] = 120.0


class Settings(BaseModel):
    """Everything that can be configured, validated. `str` and `repr` show no secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cluster: ClusterSettings = ClusterSettings()
    repository: RepositorySettings = RepositorySettings()
    workers: tuple[WorkerSettings, ...] = ()

    @field_validator("workers", mode="before")
    @classmethod
    def _read_short_workers(cls, value: object) -> object:
        """`VM[=DEVICE_ROOT]` or `VM=iscsi`, several separated by commas, beside the tables of the file."""
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            return value
        return [_read_short_worker(item) if isinstance(item, str) else item for item in items]


@dataclass(frozen=True, slots=True)
class Layer:
    """Settings from one place. `place` is how messages call it."""

    place: str
    values: Values
    spell: Callable[[Where], str]
    """How a setting is written there."""


def load_settings(
    common: CommonOptions,
    *groups: ClusterOptions | RepositoryOptions | WorkerOptions,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """The settings that hold for this command. Raises `ConfigInvalid`, naming place and setting."""
    variables = os.environ if environment is None else environment
    layers = [
        Layer("the command line", _flag_values(groups), _spell_flag),
        Layer("the environment", _environment_values(variables), _spell_variable),
    ]
    path = find_file(common.config, variables)
    if path is not None:
        layers.append(Layer(str(path), _file_values(path), _spell_path))
    try:
        return Settings.model_validate(_merge(layers))
    except ValidationError as error:
        raise _explain(error, layers) from error


def find_file(flag: Path | None, variables: Mapping[str, str]) -> Path | None:
    """The settings file: as told, else here, else the user's own, else none.

    A file that was named must exist; `ConfigInvalid` otherwise.
    """
    told = flag or (Path(variables[FILE_VARIABLE]) if variables.get(FILE_VARIABLE) else None)
    if told is not None:
        if not told.expanduser().is_file():
            place = "--config" if flag else FILE_VARIABLE
            raise ConfigInvalid(place, "", f"there is no file {told}")
        return told.expanduser()
    candidates = (Path(FILE_NAME), user_config_dir(variables) / FILE_NAME)
    return next((path for path in candidates if path.is_file()), None)


def user_config_dir(variables: Mapping[str, str]) -> Path:
    """Where a user's own settings file lies."""
    return Path(variables.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "ahvault"


def user_data_dir(variables: Mapping[str, str]) -> Path:
    """Where state that is worth keeping between runs lies, such as the embedded server's database."""
    return Path(variables.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "ahvault"


def require_cluster_url(settings: Settings) -> str:
    """The cluster's URL; raises `SettingMissing`."""
    if settings.cluster.url is None:
        raise SettingMissing("cluster", "url", "No cluster is configured")
    return settings.cluster.url


def require_repository_url(settings: Settings) -> str:
    """The repository's URL; raises `SettingMissing`."""
    if settings.repository.url is None:
        raise SettingMissing("repository", "url", "No repository is configured")
    return settings.repository.url


def read_secret_file(path: Path, setting: str) -> SecretStr:
    """The first line of a file that holds a secret; raises `ConfigInvalid`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text file"
        raise ConfigInvalid(setting, str(path), f"cannot be read: {reason}") from error
    if not lines or not lines[0]:
        raise ConfigInvalid(setting, str(path), "the file's first line is empty")
    return SecretStr(lines[0])


def read_key_file(path: Path, setting: str) -> bytes:
    """The bytes of a key file; raises `ConfigInvalid`."""
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigInvalid(setting, str(path), f"cannot be read: {reason}") from error


def _flag_values(groups: tuple[Any, ...]) -> Values:
    values: Values = {}
    for group in groups:
        if isinstance(group, WorkerOptions):
            if group.workers:
                values["workers"] = group.workers
            continue
        section = "cluster" if isinstance(group, ClusterOptions) else "repository"
        for option in group.__dataclass_fields__:
            value = getattr(group, option)
            if value is not None:
                values.setdefault(section, {})[option.removeprefix(f"{section}_")] = value
    options = values.get("repository", {}).get("storage_options")
    if options is not None:
        pairs = (split_pair("--repository-storage-option", option) for option in options)
        values["repository"]["storage_options"] = dict(pairs)
    return values


def _environment_values(variables: Mapping[str, str]) -> Values:
    values: Values = {}
    for variable, value in variables.items():
        if not variable.startswith(PREFIX) or variable == FILE_VARIABLE:
            continue
        section, _, name = variable.removeprefix(PREFIX).lower().partition("_")
        if not name:
            values[section] = value
        else:
            values.setdefault(section, {})[name] = value
    options = values.get("repository", {}).get("storage_options")
    if options is not None:
        values["repository"]["storage_options"] = _parse_json(options)
    return values


def _file_values(path: Path) -> Values:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid(str(path), "", f"is not valid TOML: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text file"
        raise ConfigInvalid(str(path), "", f"cannot be read: {reason}") from error
    _anchor_paths(values, path.parent)
    return values


def _anchor_paths(values: Values, folder: Path) -> None:
    """Paths in a file count from the file, so that it works from any working directory."""
    for section, name in _PATHS:
        given = values.get(section)
        path = given.get(name) if isinstance(given, dict) else None
        if isinstance(path, str) and "://" not in path:
            values[section][name] = str(folder / Path(path).expanduser())


def _merge(layers: list[Layer]) -> Values:
    """One tree of values: per name the first layer that has it. Lists are taken whole."""
    merged: Values = {}
    for layer in layers:
        for section, given in layer.values.items():
            if isinstance(given, dict) and isinstance(merged.get(section, {}), dict):
                merged[section] = {**given, **merged.get(section, {})}
            else:
                merged.setdefault(section, given)
    return merged


def _explain(error: ValidationError, layers: list[Layer]) -> ConfigInvalid:
    """The first mistake, with the place it was written in and the name it was meant to be."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = first["loc"]
    layer = next(layer for layer in layers if _holds(layer.values, where[:2]))
    setting = layer.spell(where)
    if first["type"] == "extra_forbidden":
        known = _known_names(where[:-1])
        near = difflib.get_close_matches(str(where[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}."
        return ConfigInvalid(layer.place, setting, f"is not a setting; {hint}")
    reason = first["msg"].removeprefix("Value error, ")
    return ConfigInvalid(layer.place, setting, reason[:1].lower() + reason[1:])


def _spell_flag(where: Where) -> str:
    return "--worker" if where[0] == "workers" else f"--{where[0]}-{where[1]}".replace("_", "-")


def _spell_variable(where: Where) -> str:
    parts = [str(part) for part in where if where[0] != "workers" or part == "workers"]
    return PREFIX + "_".join(parts).upper()


def _spell_path(where: Where) -> str:
    return ".".join(str(part) for part in where)


def _holds(values: Any, where: Where) -> bool:
    for part in where:
        if isinstance(values, dict) and part in values:
            values = values[part]
        else:
            # A worker's index says nothing about the layer; that the layer has workers does.
            return isinstance(part, int) and values is not None
    return True


def _known_names(where: Where) -> list[str]:
    sections: dict[str, type[BaseModel]] = {
        "cluster": ClusterSettings,
        "repository": RepositorySettings,
        "workers": WorkerSettings,
    }
    model = sections.get(str(where[0]), Settings) if where else Settings
    return list(model.model_fields)


def _read_short_worker(text: str) -> Values:
    vm, has_way, way = text.strip().partition("=")
    if not has_way:
        return {"vm": vm}
    return {"vm": vm, "access" if way in ("iscsi", "kernel-iscsi") else "device_root": way}


def split_pair(flag: str, text: str) -> tuple[str, str]:
    """Name and value of an option's `KEY=VALUE`; raises `ConfigInvalid`."""
    key, is_pair, value = text.partition("=")
    if not is_pair or not key:
        raise ConfigInvalid(flag, text, "write it as KEY=VALUE")
    return key, value


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{PREFIX}REPOSITORY_STORAGE_OPTIONS"
        raise ConfigInvalid(place, "", f"is not valid JSON: {error.msg}") from error
