"""From settings to open handles. The only place in `cli` that reads a secret's value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.config import Settings, require_repository_url

if TYPE_CHECKING:
    from repository import Repository


def open_repository(settings: Settings) -> Repository:
    """The configured repository; raises `SettingMissing` or a `RepositoryError`."""
    from repository import Repository

    url = require_repository_url(settings)
    return Repository.open(url, storage_options=settings.repository.storage_options)
