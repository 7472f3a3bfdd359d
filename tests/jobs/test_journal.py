"""What is recorded before anything is created: one record, and one request id, per request."""

from __future__ import annotations

from jobs.journal import Journal, all_entries
from repository import Repository, SystemClock


def test_a_request_id_belongs_to_one_request(repository: Repository) -> None:
    """The same request again gets its first id, so that it happens once; another one for the same VM gets its own (§10)."""
    journal = Journal(
        repository.live, session_id="s", cluster_url="https://pc:9440", clock=SystemClock()
    )
    first = journal.intend("volume-group", "name", "vm", content="disks of one recovery point")
    again = journal.intend("volume-group", "name", "vm", content="disks of one recovery point")
    other = journal.intend("volume-group", "name", "vm", content="disks of the next attempt")
    assert again == first
    assert other.request_id != first.request_id
    assert len(all_entries(repository.live)) == 2
