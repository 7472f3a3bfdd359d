"""From settings to open handles and blocks. The only place in `cli` that unwraps a secret."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, SecretStr, ValidationError

from cli.config import (
    ClusterSettings,
    RepositorySettings,
    Settings,
    WorkerSettings,
    read_key_file,
    read_secret_file,
    require_cluster_url,
    require_repository_url,
)
from cli.errors import ConfigInvalid, SettingMissing, WorkersMissing
from cli.passphrases import ask_passphrase, can_ask

if TYPE_CHECKING:
    from blocks import AhvCluster, BackupRepository, BackupWorkers
    from jobs import WorkerSpec
    from nutanix import AhvClient
    from repository import Repository, Secret

Model = TypeVar("Model", bound=BaseModel)


def open_repository(settings: Settings) -> Repository:
    """The configured repository; raises `SettingMissing` or a `RepositoryError`."""
    return open_with_secret(settings)[0]


def open_with_secret(settings: Settings) -> tuple[Repository, Secret | None]:
    """The configured repository and what opened it; a person at the terminal is asked if need be."""
    from repository import KeyProblem, Repository

    url = require_repository_url(settings)
    options = settings.repository.storage_options
    secret = repository_secret(settings.repository)
    try:
        return Repository.open(url, storage_options=options, secret=secret), secret
    except KeyProblem:
        if secret is not None or not can_ask():
            raise
    secret = ask_passphrase(url)
    return Repository.open(url, storage_options=options, secret=secret), secret


def repository_secret(repository: RepositorySettings) -> Secret | None:
    """What opens an encrypted repository, if anything is configured; raises `ConfigInvalid`."""
    import repository as engine

    passphrase = _secret(repository, "passphrase")
    if passphrase is not None and repository.key_file is not None:
        reason = "give either a passphrase or key_file, not both"
        raise ConfigInvalid("repository.passphrase", "", reason)
    if repository.key_file is not None:
        content = read_key_file(repository.key_file, "repository.key_file")
        return engine.read_key_file(content)
    return engine.read_passphrase(passphrase.get_secret_value()) if passphrase else None


def open_cluster(settings: Settings) -> AhvClient:
    """A client of the configured cluster; raises `SettingMissing` or `ConfigInvalid`."""
    from nutanix import AhvClient, ClusterConnection

    return AhvClient(_build(ClusterConnection, "cluster", _cluster_fields(settings)))


def cluster_block(settings: Settings) -> AhvCluster:
    """The configured cluster as an unsaved block, for a flow of this process."""
    from blocks import AhvCluster

    fields = _cluster_fields(settings)
    if "ca_file" in fields:
        fields["ca_file"] = str(fields["ca_file"].absolute())
    return _build(AhvCluster, "cluster", fields)


def repository_block(settings: Settings) -> BackupRepository:
    """The configured repository as an unsaved block. Text options of the store are kept secret."""
    from blocks import BackupRepository

    repository_secret(settings.repository)  # Refuses what the block could not open.
    options = settings.repository.storage_options
    key_file = settings.repository.key_file
    return BackupRepository(
        url=require_repository_url(settings),
        storage_options={name: each for name, each in options.items() if not isinstance(each, str)},
        storage_secrets={
            name: SecretStr(each) for name, each in options.items() if isinstance(each, str)
        },
        passphrase=_secret(settings.repository, "passphrase"),
        key_file=str(key_file.absolute()) if key_file is not None else None,
    )


def workers_block(settings: Settings) -> BackupWorkers:
    """The configured workers as an unsaved block; raises `SettingMissing` where there is none."""
    from blocks import BackupWorkers

    if not settings.workers:
        raise WorkersMissing
    return BackupWorkers(workers=worker_specs(settings))


def worker_specs(settings: Settings) -> list[WorkerSpec]:
    """The configured workers, none if there are none."""
    from jobs import WorkerSpec

    return [_build(WorkerSpec, "workers", _worker_fields(each)) for each in settings.workers]


def _worker_fields(worker: WorkerSettings) -> dict[str, Any]:
    fields = worker.model_dump()
    return {**fields, "device_root": str(worker.device_root)}


def _cluster_fields(settings: Settings) -> dict[str, Any]:
    """The fields that connection and block share; those that were not given are left out."""
    cluster = settings.cluster
    fields: dict[str, Any] = {
        "url": require_cluster_url(settings),
        "username": cluster.username,
        "password": _secret(cluster, "password"),
        "api_key": _secret(cluster, "api_key"),
        "ca_file": cluster.ca_file,
        "verify_tls": cluster.verify_tls,
        "prism_element_port": cluster.prism_element_port,
        "iscsi_port": cluster.iscsi_port,
        "chap_secret": _secret(cluster, "chap_secret"),
    }
    if fields["api_key"] is None:
        _require_login(fields)
    _require_ca_file(cluster)
    return {name: value for name, value in fields.items() if value is not None}


def _require_login(fields: dict[str, Any]) -> None:
    if fields["username"] is None:
        raise SettingMissing(
            "cluster", "username", "No user is configured to log in to the cluster"
        )
    if fields["password"] is None:
        purpose = f"No password is configured for user {fields['username']}"
        raise SettingMissing("cluster", "password_file", purpose)


def _require_ca_file(cluster: ClusterSettings) -> None:
    if cluster.ca_file is not None and not cluster.ca_file.is_file():
        raise ConfigInvalid("cluster.ca_file", "", f"there is no file {cluster.ca_file}")


def _secret(section: ClusterSettings | RepositorySettings, name: str) -> SecretStr | None:
    value: SecretStr | None = getattr(section, name)
    path: Path | None = getattr(section, f"{name}_file")
    place = "cluster" if isinstance(section, ClusterSettings) else "repository"
    if value is not None and path is not None:
        raise ConfigInvalid(f"{place}.{name}", "", f"give either {name} or {name}_file, not both")
    return read_secret_file(path, f"{place}.{name}_file") if path is not None else value


def _build(model: type[Model], section: str, fields: dict[str, Any]) -> Model:
    """A model of another package from settings; what it refuses is a mistake of the configuration."""
    try:
        return model(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        setting = ".".join(str(part) for part in (section, *first["loc"]))
        raise ConfigInvalid(setting, "", first["msg"].removeprefix("Value error, ")) from error
