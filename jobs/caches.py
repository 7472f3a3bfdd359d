"""Where this machine keeps what can be learnt again."""

from __future__ import annotations

import os
from pathlib import Path


def collect_cache(repository_id: str) -> Path:
    """What collection learnt of disk maps; may be deleted at any time (`XDG_CACHE_HOME` is minded)."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "ahvault" / "collect" / repository_id
