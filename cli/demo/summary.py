"""What the demo shows at the end: every VM and run, every comparison, and where to look further."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.demo.proofs import Proof
from cli.output import Column, table
from cli.session_report import DISK_COLUMNS, VM_COLUMNS, disk_row, session_as_data, vm_row
from jobs import RestoreResult, SessionResult, human_bytes, human_duration

if TYPE_CHECKING:
    from rich.console import RenderableType

_PROOF_COLUMNS = (
    Column("COMPARED", can_wrap=True),
    Column("WITH", can_wrap=True),
    Column("SIZE", is_number=True),
    Column("HELD"),
    Column("DETAIL", can_wrap=True),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that the demo did."""

    sessions: tuple[SessionResult, ...]
    restored: RestoreResult
    proofs: tuple[Proof, ...]
    duration_s: float

    @property
    def all_held(self) -> bool:
        """Whether every comparison held."""
        return all(proof.held for proof in self.proofs)


def outcome_as_data(outcome: Outcome) -> dict[str, Any]:
    """The demo as plain data."""
    return {
        "all_held": outcome.all_held,
        "duration_s": round(outcome.duration_s, 3),
        "sessions": [session_as_data(session) for session in outcome.sessions],
        "restored": outcome.restored.model_dump(mode="json"),
        "comparisons": [
            {
                "subject": proof.subject,
                "compared_with": proof.compared_with,
                "size_bytes": proof.size_bytes,
                "held": proof.held,
                "detail": proof.detail,
            }
            for proof in outcome.proofs
        ],
    }


def view_outcome(outcome: Outcome) -> Iterator[RenderableType]:
    """Three tables and one sentence."""
    runs = [(number, session) for number, session in enumerate(outcome.sessions, start=1)]
    yield ""
    yield "Sessions: what each run did with each VM"
    rows = [(str(number), *vm_row(vm)) for number, session in runs for vm in session.vms]
    yield table((Column("RUN"), *VM_COLUMNS), rows)
    yield ""
    yield "Disks: what was read of each, and why that much"
    yield table(
        (Column("RUN"), *DISK_COLUMNS),
        [
            (str(number), *disk_row(vm, disk))
            for number, session in runs
            for vm in session.vms
            for disk in vm.disks
        ],
    )
    yield ""
    yield "Comparisons"
    yield table(_PROOF_COLUMNS, [_proof_row(proof) for proof in outcome.proofs])
    yield ""
    yield _verdict(outcome)


def view_next_steps(config_file: Path, pid: int, exported: Path) -> Sequence[str]:
    """Commands to look further into a demo that was kept, as they can be typed here and now."""
    ahvault = "ahvault" if shutil.which("ahvault") else sys.argv[0]
    return (
        "",
        "The simulator and the repository are still there. Look further:",
        f"  export AHVAULT_CONFIG={config_file}",
        f"  {ahvault} vms",
        f"  {ahvault} points --disks",
        f"  {ahvault} backup --job demo",
        f"  {ahvault} verify",
        f"  {ahvault} restore web01 --name web01-again",
        f"  {ahvault} export db01 scsi.1 db01-data.raw",
        f"  ls -lsh {exported}",
        f"Stop it with `kill {pid}`, then remove {config_file.parent}.",
    )


def _proof_row(proof: Proof) -> tuple[str, ...]:
    held = "yes" if proof.held else "NO"
    return (proof.subject, proof.compared_with, human_bytes(proof.size_bytes), held, proof.detail)


def _verdict(outcome: Outcome) -> str:
    failed = sum(not proof.held for proof in outcome.proofs)
    total = len(outcome.proofs)
    took = human_duration(outcome.duration_s)
    if failed:
        return f"FAILED: {failed} of {total} comparisons did not hold ({took})."
    return (
        f"All {total} comparisons held; every restored byte is the one that was backed up ({took})."
    )
