"""The ownership mark in the names of what we create on a cluster (N10)."""

from hypothesis import given
from hypothesis import strategies as st

from jobs.marks import NAME_LENGTH_MAX, object_name, repository_prefix

REPOSITORY = "4f9d2c1b-0000-0000-0000-000000000000"
SESSION = "77aa88bb-1111-1111-1111-111111111111"


def test_a_name_tells_repository_session_job_and_vm() -> None:
    """A person who meets the object on the cluster can tell whose it is."""
    name = object_name(
        repository_id=REPOSITORY, session_id=SESSION, job="nightly db", vm_name="db01"
    )
    assert name == "ahvault-4f9d2c1b-77aa88bb-nightly_db-db01"


@given(job=st.text(max_size=50), vm_name=st.text(max_size=120))
def test_any_names_give_a_valid_marked_name(job: str, vm_name: str) -> None:
    """Whatever a VM or job is called, the name fits, is plain ASCII and starts with our mark."""
    name = object_name(repository_id=REPOSITORY, session_id=SESSION, job=job, vm_name=vm_name)
    assert name.startswith(repository_prefix(REPOSITORY))
    assert len(name) <= NAME_LENGTH_MAX
    assert name.isascii()
    assert name.isprintable()
