"""Which packs a verification with a budget reads, and how much of what is stored is proven. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Set

from repository.findings import Finding, VerifyBudget, VerifyCoverage, damaged_points
from repository.layout import pack_id_in
from repository.ledger import NEVER, Ledger
from repository.store import ObjectInfo


def covered_packs(listed: Iterable[ObjectInfo], quarantined: Set[bytes]) -> dict[bytes, ObjectInfo]:
    """What the ledger is about: every pack, by its id, that is not under quarantine."""
    packs: dict[bytes, ObjectInfo] = {}
    for info in listed:
        pack_id = pack_id_in(info.key)
        if pack_id is not None and pack_id not in quarantined:
            packs[pack_id] = info
    return packs


def due_packs(
    packs: Mapping[bytes, ObjectInfo], ledger: Ledger, budget: VerifyBudget, now: dt.datetime
) -> list[ObjectInfo]:
    """The packs without a fresh proof, least recently looked at first, within the bytes.

    Those never looked at come first, in the order in which they were first seen. One that was found
    bad is due until it is found sound, but takes its turn like the others, so that many bad ones do
    not keep the rest from being looked at.
    """
    turns = []
    for pack_id, info in packs.items():
        if not _is_fresh(ledger, pack_id, budget, now):
            check = ledger.get(pack_id)
            last = _believed(check.checked_at(budget.level), now) if check else NEVER
            turns.append((last, check.seen_at if check else now, pack_id, info))
    turns.sort(key=lambda turn: turn[:3])
    due: list[ObjectInfo] = []
    left_bytes = budget.max_bytes
    for *_, info in turns:
        if left_bytes is not None:
            left_bytes -= info.size_bytes
            if left_bytes < 0 and due:
                break
        due.append(info)
    return due


def measure_coverage(
    packs: Mapping[bytes, ObjectInfo],
    ledger: Ledger,
    budget: VerifyBudget,
    open_findings: Iterable[Finding],
    now: dt.datetime,
) -> VerifyCoverage:
    """How much of these packs has been proven within the time, and how old the oldest proof is."""
    findings = list(open_findings)
    fresh = [info for pack_id, info in packs.items() if _is_fresh(ledger, pack_id, budget, now)]
    ages_s = (_age_s(ledger, pack_id, budget, now) for pack_id in packs)
    return VerifyCoverage(
        level=budget.level,
        every_days=budget.every_days,
        pack_count=len(packs),
        stored_bytes=sum(info.size_bytes for info in packs.values()),
        covered_pack_count=len(fresh),
        covered_bytes=sum(info.size_bytes for info in fresh),
        oldest_age_s=max(ages_s, default=0.0),
        open_finding_count=len(findings),
        damaged_point_count=len(damaged_points(findings)),
    )


def _is_fresh(ledger: Ledger, pack_id: bytes, budget: VerifyBudget, now: dt.datetime) -> bool:
    check = ledger.get(pack_id)
    if check is None:
        return False
    proven_at = _believed(check.proven_at(budget.level), now)
    return now - proven_at < dt.timedelta(days=budget.every_days)


def _age_s(ledger: Ledger, pack_id: bytes, budget: VerifyBudget, now: dt.datetime) -> float:
    check = ledger.get(pack_id)
    if check is None:
        return 0.0
    since = max(_believed(check.proven_at(budget.level), now), min(check.seen_at, now))
    return (now - since).total_seconds()


def _believed(moment: dt.datetime, now: dt.datetime) -> dt.datetime:
    """The moment, unless it is still to come: a clock that was wrong must not postpone checks."""
    return moment if moment <= now else NEVER
