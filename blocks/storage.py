"""The `Backup Repository` block: where restore points are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from prefect.blocks.core import Block
from pydantic import Field, SecretStr, model_validator

from repository import Repository, Secret, read_key_file, read_passphrase


class BackupRepository(Block):
    """A repository at any fsspec URL: a directory, S3, SFTP and others.

    Example:
        Load a saved repository and list its restore points:
        ```python
        from blocks import BackupRepository

        with BackupRepository.load("BLOCK_NAME").open() as repository:
            points = repository.points().points
        ```
    """

    _block_type_name = "Backup Repository"
    _block_type_slug = "backup-repository"

    url: str = Field(
        title="Repository URL",
        description="Where the repository lies, such as file:///srv/backup or s3://bucket/ahvault.",
        examples=["file:///srv/backup"],
    )
    storage_options: dict[str, Any] = Field(
        default_factory=dict,
        description="Settings of the store's fsspec driver that are no secret, such as an endpoint.",
    )
    storage_secrets: dict[str, SecretStr] = Field(
        default_factory=dict,
        description="Settings of the store's fsspec driver that are secret, such as an access key.",
    )

    passphrase: SecretStr | None = Field(
        default=None, description="Passphrase of an encrypted repository."
    )
    key_file: str | None = Field(
        default=None,
        description="Key file, on the machine that runs the session, that opens an encrypted "
        "repository instead of a passphrase.",
    )

    @model_validator(mode="after")
    def _one_secret_at_most(self) -> Self:
        if self.key_file and self.passphrase and self.passphrase.get_secret_value():
            raise ValueError("give either passphrase or key_file, not both")
        return self

    def open(self) -> Repository:
        """Open the repository; the caller closes it. Raises the repository's own typed errors.

        OSError when the key file cannot be read.
        """
        secrets = {name: value.get_secret_value() for name, value in self.storage_secrets.items()}
        return Repository.open(
            self.url,
            storage_options={**self.storage_options, **secrets},
            secret=self._secret(),
        )

    def _secret(self) -> Secret | None:
        if self.key_file:
            return read_key_file(Path(self.key_file).read_bytes())
        return (
            read_passphrase(self.passphrase.get_secret_value())
            if self.passphrase and self.passphrase.get_secret_value()
            else None
        )
