"""What doctor says of workers that use iSCSI: whether the portal is there, and who could pose as them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from jobs import WorkerSpec, check_workers
from nutanix import AhvClient, ClusterConnection, Level
from simulator import Simulator

OUTSIDE = WorkerSpec(vm="backup-host", access="iscsi")


@pytest.fixture
def connect(simulator: Simulator) -> Iterator[Callable[..., AhvClient]]:
    """A client whose cluster serves iSCSI where the simulator does, unless told otherwise."""
    opened: list[AhvClient] = []

    def make(**changes: Any) -> AhvClient:
        connection = ClusterConnection(
            url=simulator.pc_url,
            username=simulator.username,
            password=SecretStr(simulator.password),
            ca_file=simulator.ca_file,
            iscsi_port=int(simulator.iscsi_portal.rpartition(":")[2]),
        )
        opened.append(AhvClient(connection.model_copy(update=changes)))
        return opened[-1]

    yield make
    for client in opened:
        client.close()


def test_a_machine_outside_is_taken_for_one_and_its_logins_are_looked_at(
    connect: Callable[..., AhvClient],
) -> None:
    """The portal answers; without a CHAP secret there is a warning, with one there is none."""
    fine, warning = check_workers(connect(), [OUTSIDE])
    assert fine.level is Level.OK
    assert "a machine outside" in fine.text
    assert "data services" in fine.text
    assert (warning.level, "chap_secret" in warning.advice) == (Level.WARNING, True)
    (alone,) = check_workers(connect(chap_secret=SecretStr("secretsecret12")), [OUTSIDE])
    assert alone.level is Level.OK


def test_a_portal_that_does_not_answer_is_a_problem(connect: Callable[..., AhvClient]) -> None:
    """Nobody listens at the port: told before a session finds out."""
    (problem,) = check_workers(connect(iscsi_port=9), [OUTSIDE])
    assert problem.level is Level.PROBLEM
    assert "cannot be reached" in problem.text


def test_a_cluster_without_data_services_is_a_problem(
    connect: Callable[..., AhvClient], simulator: Simulator
) -> None:
    """No address is set on the cluster: told with what to set."""
    documents, record = simulator.cluster.documents, simulator.cluster.aos
    bare = {k: v for k, v in record.document["network"].items() if k != "externalDataServiceIp"}
    with documents.change():
        documents.put("cluster", record.ext_id, {**record.document, "network": bare})
    try:
        (problem,) = check_workers(connect(), [OUTSIDE])
    finally:
        with documents.change():
            documents.put("cluster", record.ext_id, record.document)
    assert problem.level is Level.PROBLEM
    assert "iSCSI data services IP" in problem.text


def test_a_direct_worker_of_no_such_name_is_a_problem(connect: Callable[..., AhvClient]) -> None:
    """Only iSCSI can serve a machine outside: the same name with direct access is a mistake."""
    (problem,) = check_workers(connect(), [WorkerSpec(vm="backup-host")])
    assert problem.level is Level.PROBLEM
    assert "no VM backup-host" in problem.text
