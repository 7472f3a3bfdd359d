"""Simulators to test against, and a plain HTTP client that knows nothing of our own."""

from __future__ import annotations

import ssl
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from simulator import Settings, Simulator
from simulator.sparse import copy_sparse

REFERENCE_TYPE = "dataprotection.v4.content.VmDiskRecoveryPointReference"


@dataclass(frozen=True)
class Point:
    """A recovery point of one VM, with all three levels of ids."""

    ext_id: str
    vm_point: str
    disk_points: list[str]

    def reference(self, disk: int) -> dict[str, str]:
        return {
            "$objectType": REFERENCE_TYPE,
            "recoveryPointExtId": self.ext_id,
            "vmRecoveryPointExtId": self.vm_point,
            "diskRecoveryPointExtId": self.disk_points[disk],
        }


class Api:
    """Calls over real TLS, as a client of another language would make them."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.tls = ssl.create_default_context(cafile=str(simulator.ca_file))
        login = (simulator.username, simulator.password)
        self.pc = httpx.Client(base_url=simulator.pc_url, verify=self.tls, auth=login)
        self.pe = httpx.Client(base_url=simulator.pe_url, verify=self.tls)

    def close(self) -> None:
        self.pc.close()
        self.pe.close()

    def service_account(self) -> tuple[str, str]:
        """A new service account without any right: its id and a key."""
        spec = {"username": f"t-{uuid.uuid4()}", "userType": "SERVICE_ACCOUNT"}
        user = self.send("POST", "/iam/v4.0/authn/users", json=spec).json()["data"]["extId"]
        body = {"name": "k", "keyType": "API_KEY"}
        made = self.send("POST", f"/iam/v4.0/authn/users/{user}/keys", json=body).json()["data"]
        return user, made["keyDetails"]["apiKey"]

    def grant(self, user: str, role: str) -> None:
        """Give a role, by its name, to a user, by its id."""
        rows = self.get("/iam/v4.0/authz/roles", **{"$limit": "100"})
        (ext_id,) = (row["extId"] for row in rows if row["displayName"] == role)
        spec = {
            "displayName": f"{user} is {role}",
            "role": ext_id,
            "identities": [{"identityFilter": {"user": {"uuid": {"anyof": [user]}}}}],
            "entities": [{"entityFilter": {"*": {"*": {"eq": "*"}}}}],
        }
        answer = self.send("POST", "/iam/v4.0/authz/authorization-policies", json=spec)
        assert answer.status_code == 201, answer.text

    def as_key(self, key: str) -> httpx.Client:
        """A client that logs in with a key."""
        headers = {"X-ntnx-api-key": key}
        return httpx.Client(base_url=self.simulator.pc_url, verify=self.tls, headers=headers)

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"NTNX-Request-Id": str(uuid.uuid4()), **options.pop("headers", {})}
        return self.pc.request(method, f"/api{path}", headers=headers, **options)

    def get(self, path: str, **query: str) -> Any:
        response = self.send("GET", path, params=query)
        assert response.status_code == 200, response.text
        return response.json().get("data", [])

    def task(self, response: httpx.Response) -> dict[str, Any]:
        """Wait for the task of a 202 answer to end, and return it."""
        assert response.status_code == 202, (response.status_code, response.text)
        path = f"/prism/v4.4/config/tasks/{response.json()['data']['extId']}"
        for _ in range(1000):
            task: dict[str, Any] = self.get(path)
            if task["status"] in ("SUCCEEDED", "FAILED", "CANCELED"):
                return task
            time.sleep(0.005)
        raise AssertionError(f"task did not end: {task}")

    def do(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """A mutating call that must succeed."""
        task = self.task(self.send(method, path, **options))
        assert task["status"] == "SUCCEEDED", task
        return task

    def created(self, task: dict[str, Any], rel: str) -> str:
        return next(str(e["extId"]) for e in task["entitiesAffected"] if e["rel"] == rel)

    def vm(self, name: str) -> dict[str, Any]:
        found = self.get("/vmm/v4.3/ahv/config/vms", **{"$filter": f"name eq '{name}'"})
        assert len(found) == 1
        return dict(found[0])

    def cluster_id(self) -> str:
        clusters = self.get("/clustermgmt/v4.3/config/clusters")
        return next(str(c["extId"]) for c in clusters if c["config"]["clusterFunction"] == ["AOS"])

    def snapshot(self, vm_name: str, name: str = "bk") -> Point:
        vm = self.vm(vm_name)["extId"]
        body = {
            "name": name,
            "expirationTime": "2090-01-01T00:00:00Z",
            "vmRecoveryPoints": [{"vmExtId": vm}],
        }
        task = self.do("POST", "/dataprotection/v4.4/config/recovery-points", json=body)
        ext_id = {d["name"]: d["value"] for d in task["completionDetails"]}["recoveryPointExtId"]
        point = self.get(f"/dataprotection/v4.4/config/recovery-points/{ext_id}")
        row = point["vmRecoveryPoints"][0]
        disks = [d["diskRecoveryPointExtId"] for d in row["diskRecoveryPoints"]]
        return Point(ext_id, row["extId"], disks)

    def discover(self, new: Point, old: Point | None, disk: int = 0) -> str:
        """The token for changed regions of one disk."""
        spec = {"diskRecoveryPoint": new.reference(disk)}
        if old is not None:
            spec["referenceDiskRecoveryPoint"] = old.reference(disk)
        path = f"/dataprotection/v4.4/config/recovery-points/{new.ext_id}/$actions/discover-cluster"
        body = {"operation": "COMPUTE_CHANGED_REGIONS", "spec": spec}
        response = self.send("POST", path, json=body)
        assert response.status_code == 200, response.text
        return str(response.json()["data"]["jwtToken"])

    def compute(
        self,
        new: Point,
        old: Point | None,
        disk: int = 0,
        *,
        token: str = "",
        version: str = "v4.4",
        **body: int,
    ) -> httpx.Response:
        sent: dict[str, Any] = dict(body)
        if old is not None:
            sent |= {
                "referenceRecoveryPointExtId": old.ext_id,
                "referenceVmRecoveryPointExtId": old.vm_point,
                "referenceDiskRecoveryPointExtId": old.disk_points[disk],
            }
        path = (
            f"/api/dataprotection/{version}/content/recovery-points/{new.ext_id}/vm-recovery-points/"
            f"{new.vm_point}/disk-recovery-points/{new.disk_points[disk]}/$actions/compute-changed-regions"
        )
        cookie = {"Cookie": f"NTNX_IGW_SESSION={token or self.discover(new, old, disk)}"}
        return self.pe.post(path, json=sent, headers=cookie)

    def regions(
        self, new: Point, old: Point | None, disk: int = 0, **body: int
    ) -> list[tuple[int, int, str]]:
        """All regions as (start, end, type), page by page."""
        token, offset = self.discover(new, old, disk), 0
        found: list[tuple[int, int, str]] = []
        while True:
            answer = self.compute(new, old, disk, token=token, offset=offset, **body).json()
            rows = answer.get("data", [])
            found += [(r["offset"], r["offset"] + r["length"], r["regionType"]) for r in rows]
            extra = {d["name"]: d["value"] for d in answer["metadata"]["extraInfo"]}
            following = int(extra.get("nextOffset", "0"))
            if following == 0:
                return found
            assert following > offset
            offset = following

    def set_power(self, vm_name: str, action: str) -> None:
        vm = self.vm(vm_name)["extId"]
        tag = self.send("GET", f"/vmm/v4.3/ahv/config/vms/{vm}").headers["etag"]
        self.do(
            "POST", f"/vmm/v4.3/ahv/config/vms/{vm}/$actions/{action}", headers={"If-Match": tag}
        )

    def make_group(self, *disks: dict[str, Any], name: str = "bk-group") -> str:
        body = {"name": name, "clusterReference": self.cluster_id(), "disks": list(disks)}
        task = self.do("POST", "/volumes/v4.3/config/volume-groups", json=body)
        return self.created(task, "volumes:config:volume-group")

    def clones_of(self, point: Point) -> list[dict[str, Any]]:
        return [
            {
                "index": i,
                "diskDataSourceReference": {"extId": d, "entityType": "DISK_RECOVERY_POINT"},
            }
            for i, d in enumerate(point.disk_points)
        ]


@pytest.fixture(scope="session")
def pristine_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory as a new simulator leaves it, to copy from."""
    state = tmp_path_factory.mktemp("simulator") / "pristine"
    with Simulator(state=state, size=0.05):
        pass
    return state


def _copy_state(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        elif path.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            copy_sparse(path, place)


@pytest.fixture
def fresh_state(pristine_state: Path, tmp_path: Path) -> Path:
    """A state directory of one's own."""
    _copy_state(pristine_state, tmp_path / "state")
    return tmp_path / "state"


@pytest.fixture
def open_api(fresh_state: Path) -> Iterator[Callable[..., Api]]:
    """Start a simulator over a state of its own, with settings; returns a client of it."""
    with ExitStack() as stack:

        def start(state: Path = fresh_state, **settings: Any) -> Api:
            quick = {"task_s": 0.005, "power_on_s": 0.01, **settings}
            simulator = stack.enter_context(Simulator(state=state, settings=Settings(**quick)))
            api = Api(simulator)
            stack.callback(api.close)
            return api

        yield start


@pytest.fixture
def api(open_api: Callable[..., Api]) -> Api:
    """A client of a simulator that nobody else uses."""
    return open_api()


@pytest.fixture(scope="session")
def shared_api(pristine_state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A client of one simulator for all tests that only look, or undo what they do."""
    state = tmp_path_factory.mktemp("simulator") / "shared"
    _copy_state(pristine_state, state)
    with Simulator(state=state, settings=Settings(task_s=0.005, power_on_s=0.01)) as simulator:
        client = Api(simulator)
        yield client
        client.close()
