"""Weather for one session, drawn from a seed: which faults the cluster has, and what else happens to it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

OPERATIONS = (
    "VolumeGroupCreate",
    "VolumeGroupAttachExternal",
    "VolumeGroupDetachExternal",
    "VolumeGroupDelete",
    "CreateRecoveryPoint",
    "DeleteRecoveryPoint",
)
REGIONS = {"side": "element", "path": "*compute-changed-regions"}
RARE, SOMETIMES, OFTEN = 0.03, 0.12, 0.4


@dataclass(frozen=True)
class Weather:
    """What one session meets. `faults` is a plan of the simulator's."""

    seed: int
    faults: list[dict[str, Any]] = field(default_factory=list)
    host_down: str | None = None
    """A host that goes down when the session's first snapshot is taken."""
    access: str = "direct"
    with_restore: bool = False

    def plan(self) -> dict[str, Any]:
        """The faults as the simulator takes them."""
        return {"seed": self.seed, "faults": self.faults}


def draw(seed: int) -> Weather:
    """The weather of a seed: one fair session in eight, else one to five kinds of trouble."""
    chance = random.Random(f"weather/{seed}")
    makers = list(FAULTS)
    count = 0 if chance.random() < 0.125 else chance.randint(1, 5)
    access = "iscsi" if chance.random() < 0.25 else "direct"
    faults = [fault for maker in chance.sample(makers, count) for fault in maker(chance)]
    if access == "iscsi" and chance.random() < 0.5:
        faults.append(_wire(chance))
    return Weather(
        seed=seed,
        faults=faults,
        host_down=chance.choice(("host-1", "host-2")) if chance.random() < 0.08 else None,
        access=access,
        with_restore=chance.random() < 0.15,
    )


def _busy_service(chance: random.Random) -> list[dict[str, Any]]:
    status = chance.choice((408, 429, 500, 502, 503, 504))
    body = chance.choice(("error", "empty", "html", "bare"))
    wait = chance.choice((None, 0)) if status in (429, 503) else None
    return [{"kind": "status", "status": status, "body": body, "retry_after_s": wait,
             "probability": chance.choice((RARE, SOMETIMES, OFTEN))}]  # fmt: skip


def _rate_limit_by_group(chance: random.Random) -> list[dict[str, Any]]:
    return [{"kind": "status", "status": 400, "group": "RATE_LIMIT_EXCEEDED",
             "probability": chance.choice((RARE, SOMETIMES))}]  # fmt: skip


def _dead_service(chance: random.Random) -> list[dict[str, Any]]:
    path = chance.choice(("*recovery-points*", "*volume-groups*", "*discover-cluster", "*tasks*"))
    method = chance.choice(("*", "POST", "GET", "DELETE"))
    return [{"kind": "status", "status": 503, "match": {"path": path, "method": method},
             "times": chance.choice((5, 40))}]  # fmt: skip


def _broken_connections(chance: random.Random) -> list[dict[str, Any]]:
    return [{"kind": "dropped", "is_done": chance.random() < 0.5,
             "probability": chance.choice((RARE, SOMETIMES))}]  # fmt: skip


def _half_answers(chance: random.Random) -> list[dict[str, Any]]:
    return [{"kind": "half", "probability": chance.choice((RARE, SOMETIMES))}]


def _slow_answers(chance: random.Random) -> list[dict[str, Any]]:
    return [{"kind": "slow", "delay_s": 0.05, "probability": chance.choice((RARE, SOMETIMES))}]


def _redirects(chance: random.Random) -> list[dict[str, Any]]:
    return [{"kind": "redirect", "every": chance.choice((2, 3, 7))}]


def _stale_tags(chance: random.Random) -> list[dict[str, Any]]:
    return [{"kind": "stale_tag", "shows_as": chance.choice(("status", "task")),
             "probability": chance.choice((SOMETIMES, OFTEN, 1.0)),
             "times": chance.choice((3, 30))}]  # fmt: skip


def _failing_tasks(chance: random.Random) -> list[dict[str, Any]]:
    return [{"kind": "task", "outcome": chance.choice(("fails", "fails_after_work")),
             "tells": chance.choice(("task", "subtask", "legacy", "nothing")),
             "match": {"operation": chance.choice((*OPERATIONS, "*"))},
             "probability": chance.choice((SOMETIMES, OFTEN, 1.0)),
             "times": chance.choice((1, 3))}]  # fmt: skip


def _stuck_tasks(chance: random.Random) -> list[dict[str, Any]]:
    return [{"kind": "task", "outcome": "stuck", "match": {"operation": chance.choice(OPERATIONS)},
             "probability": chance.choice((OFTEN, 1.0)), "times": chance.choice((1, 2))}]  # fmt: skip


def _slow_tasks(chance: random.Random) -> list[dict[str, Any]]:
    return [{"kind": "task", "outcome": "slow", "delay_s": chance.choice((0.2, 0.6)),
             "match": {"operation": chance.choice((*OPERATIONS, "*"))},
             "probability": OFTEN, "times": 4}]  # fmt: skip


def _full_cluster(chance: random.Random) -> list[dict[str, Any]]:
    return [{"kind": "task", "outcome": "fails", "group": "INSUFFICIENT_SPACE",
             "message": "The storage container default-container has not enough free space.",
             "match": {"operation": chance.choice(("VolumeGroupCreate", "CreateRecoveryPoint"))},
             "probability": chance.choice((OFTEN, 1.0))}]  # fmt: skip


def _worker_that_never_boots(chance: random.Random) -> list[dict[str, Any]]:
    return [{"kind": "task", "outcome": chance.choice(("stuck", "fails")),
             "match": {"operation": "SetVmPower"}, "nth": chance.choice(([1], [1, 2], [2], [1, 3, 5]))}]  # fmt: skip


def _disk_that_never_shows_up(chance: random.Random) -> list[dict[str, Any]]:
    vm = chance.choice(("*", "ahvault-worker-1", "ahvault-worker-2"))
    return [{"kind": "no_device", "match": {"vm": vm}, "probability": chance.choice((OFTEN, 1.0))}]


def _bad_regions(chance: random.Random) -> list[dict[str, Any]]:
    how = chance.choice(
        ("truncated", "misordered", "overlapping", "beyond_end", "looping", "no_size")
    )
    return [{"kind": "bad_regions", "how": how, "match": REGIONS,
             "probability": chance.choice((SOMETIMES, OFTEN, 1.0))}]  # fmt: skip


def _expired_tokens(chance: random.Random) -> list[dict[str, Any]]:
    return [{"kind": "status", "status": 401, "match": REGIONS,
             "every": chance.choice((2, 3, 5)), "times": chance.choice((2, 20))}]  # fmt: skip


def _wrong_scope(chance: random.Random) -> list[dict[str, Any]]:
    return [{"kind": "wrong_scope", "minor": chance.choice((0, 1, 2)),
             "probability": chance.choice((OFTEN, 1.0))}]  # fmt: skip


def _wire(chance: random.Random) -> dict[str, Any]:
    return {"kind": "iscsi", "how": chance.choice(("dropped", "medium_error", "busy")),
            "probability": RARE, "times": chance.choice((2, 20))}  # fmt: skip


FAULTS = (
    _busy_service,
    _rate_limit_by_group,
    _dead_service,
    _broken_connections,
    _half_answers,
    _slow_answers,
    _redirects,
    _stale_tags,
    _failing_tasks,
    _stuck_tasks,
    _slow_tasks,
    _full_cluster,
    _worker_that_never_boots,
    _disk_that_never_shows_up,
    _bad_regions,
    _expired_tokens,
    _wrong_scope,
)
