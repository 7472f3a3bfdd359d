"""What a worker VM is made of: its size (W17), its name (W21) and its first boot (`worker-cloud-init.yaml`)."""

from __future__ import annotations

import json
import re
from importlib.resources import files

from pydantic import BaseModel, ConfigDict, SecretStr

WORKER_NAME = re.compile(r"[A-Za-z0-9-]{1,63}")
GIB = 1 << 30
SLOTS_DEFAULT = 4
BASE_UNITS = 2
"""W17: 6 vCPUs and 6 GB for 4 slots, one more of each for each further slot."""
DISK_BYTES = 100 * GIB


class WorkerBoot(BaseModel):
    """What the first boot of a worker must know."""

    model_config = ConfigDict(frozen=True)

    name: str
    package: str
    """What pip installs: a wheel's URL, or `ahvault @ git+https://...`."""
    slots: int = SLOTS_DEFAULT
    queue: str | None = None
    prefect_api_url: str | None = None
    prefect_api_auth: SecretStr | None = None
    ssh_keys: tuple[str, ...] = ()

    def user_data(self) -> str:
        """The cloud-init document. Holds the server's credentials where it has any."""
        template = files("jobs").joinpath("worker-cloud-init.yaml").read_text(encoding="utf-8")
        if not self.ssh_keys:  # An empty list is no list of keys to cloud-init.
            template = re.sub(r"^ssh_authorized_keys:.*\n", "", template, flags=re.MULTILINE)
        values: dict[str, object] = {
            "NAME": self.name,
            "SSH_KEYS": list(self.ssh_keys),
            "ENVIRONMENT": self._environment(),
            "PACKAGE": self.package,
        }
        # JSON is YAML: whatever a value holds, it stays one value.
        return re.sub(
            r"@([A-Z_]+)@",
            lambda found: (
                json.dumps(values[found.group(1)]) if found.group(1) in values else found.group(0)
            ),
            template,
        )

    def without_secrets(self) -> WorkerBoot:
        """The same, to be shown."""
        shown = SecretStr("...") if self.prefect_api_auth else None
        return self.model_copy(update={"prefect_api_auth": shown})

    def _environment(self) -> str:
        auth = self.prefect_api_auth
        lines = {
            "AHVAULT_WORKER": self.name,
            "AHVAULT_QUEUE": self.queue or self.name,
            "AHVAULT_SLOTS": str(self.slots),
            "PREFECT_API_URL": self.prefect_api_url or "",
            "PREFECT_API_AUTH_STRING": auth.get_secret_value() if auth else "",
        }
        return "".join(f"{name}={_quoted(value)}\n" for name, value in lines.items() if value)


def _quoted(value: str) -> str:
    """As systemd reads it in an `EnvironmentFile`, where a bare backslash or quote would be lost."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def vcpus_for(slots: int) -> int:
    """How many virtual CPUs a worker of so many slots gets (W17)."""
    return BASE_UNITS + slots


def memory_bytes_for(slots: int) -> int:
    """How much memory a worker of so many slots gets (W17)."""
    return (BASE_UNITS + slots) * GIB
