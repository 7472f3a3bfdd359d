"""A session that is interrupted or killed in mid-transfer: nothing committed is lost, nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL

from flows.backup import backup
from jobs import BackupJob
from jobs.journal import all_entries
from jobs.leases import leased_sessions
from jobs.marks import repository_prefix
from repository import VerifyLevel

pytestmark = [pytest.mark.prefect, pytest.mark.xdist_group("prefect")]

SCRIPT = Path(__file__).parent / "signalled_session.py"


def run_signalled(site: Any, tmp_path: Path, name: str) -> subprocess.CompletedProcess[str]:
    """A session over every VM in another process, which gets the signal in mid-transfer."""
    settings = {
        "cluster": {
            **site.cluster.model_dump(exclude={"password", "api_key", "block_type_slug"}),
            "password": site.cluster.password.get_secret_value(),
        },
        "repository": {"url": site.repository.url},
        "workers": {"workers": [spec.model_dump() for spec in site.workers.workers]},
    }
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings))
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(path), name],
        env={**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def left(site: Any) -> dict[str, list[str]]:
    """What carries our mark on the cluster, and which workers run."""
    with site.cluster.client() as client, site.repository.open() as repository:
        prefix = repository_prefix(repository.id)
        return {
            "recovery points": [each.name for each in client.recovery_points(name_prefix=prefix)],
            "volume groups": [each.name for each in client.volume_groups(name_prefix=prefix)],
            "workers on": [vm.name for vm in client.vms() if vm.is_on and "worker" in vm.name],
        }


NOTHING: dict[str, list[str]] = {"recovery points": [], "volume groups": [], "workers on": []}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_session_cleans_up_after_itself(
    site: Any, tmp_path: Path, name: str
) -> None:
    """Ctrl-C, or a service manager's stop, in mid-transfer: the session itself removes all it made and says it was stopped."""
    ended = run_signalled(site, tmp_path, name)
    assert ended.returncode != 0, ended.stderr
    assert left(site) == NOTHING, ended.stderr
    with site.repository.open() as repository:
        assert repository.points().points == []
        assert all_entries(repository.live) == []
        assert leased_sessions(repository.live) == set()
        assert [report["status"] for report in repository.reports().reports] == ["stopped"]


def test_the_session_after_a_kill_cleans_up_and_succeeds(site: Any, tmp_path: Path) -> None:
    """SIGKILL in mid-transfer: the repository verifies; the next session removes what was left, says so, reuses what was stored, and is complete."""
    ended = run_signalled(site, tmp_path, "SIGKILL")
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert left(site) != NOTHING
    with site.repository.open() as repository:
        assert repository.verify(VerifyLevel.CONTENT).findings == ()

    result = backup(site.cluster, site.repository, site.workers, BackupJob(name="nightly"))

    assert result.status == "success"
    assert any("volume-group" in text for text in result.cleaned), result.cleaned
    after = left(site)
    assert len(after["recovery points"]) == len(result.vms)
    assert after["volume groups"] == after["workers on"] == []
    with site.repository.open() as repository:
        assert repository.verify(VerifyLevel.CONTENT).findings == ()
        assert leased_sessions(repository.live) == set()
