"""Commands that change a Prefect server need one that stays: the embedded one ends with its command."""

from __future__ import annotations

import os

from cli.errors import ConfigInvalid


def require_server() -> None:
    """Raise `ConfigInvalid` unless PREFECT_API_URL names a server."""
    if not os.environ.get("PREFECT_API_URL"):
        raise ConfigInvalid(
            "PREFECT_API_URL",
            "",
            "is not set; name the server, such as http://127.0.0.1:4200/api of `ahvault serve`",
        )
