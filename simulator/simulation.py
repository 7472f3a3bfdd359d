"""A whole simulator: state, both listeners, and the ways to run it, in a test or as a program."""

from __future__ import annotations

import json
import logging
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from simulator.api import (
    content,
    dataprotection,
    iam,
    images,
    inventory,
    prism,
    vm_devices,
    vmm,
    volumes,
)
from simulator.api.admin import administrator
from simulator.api.doors import ADMIN_PATH, USERNAME, Doors, Request, Response, Side
from simulator.api.trouble import TroubledDoors
from simulator.clock import Clock
from simulator.cluster import Cluster
from simulator.crowd import Crowd, populate_crowd
from simulator.errors import SimulatorError
from simulator.exports import GroupExports
from simulator.faults import FaultPlan, FaultPlayer, load_plan
from simulator.filesystems import require_tools
from simulator.further_clusters import add_cluster
from simulator.iscsi import Portal
from simulator.population import populate
from simulator.server import Listener, bind_all, bind_data_services, prepare_certificates
from simulator.settings import Settings
from simulator.story import Story

log = logging.getLogger(__name__)

CATALOGUES = [
    vmm.catalogue,
    vm_devices.catalogue,
    images.catalogue,
    iam.catalogue,
    dataprotection.catalogue,
    content.catalogue,
    volumes.catalogue,
    prism.catalogue,
    inventory.clusters,
    inventory.networks,
]
DEFAULT_SEED = "ahvault"


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker VM, and the folder of this machine that stands for its `/dev`."""

    name: str
    ext_id: str
    device_root: Path


class Simulator:
    """A Nutanix of our own, running in threads of this process while the context is open.

    `state` None means a temporary directory that goes with the simulator; any other one is kept, and
    the next simulator over it begins where this one ended. `size` scales the disks of a new one, and
    a `crowd` adds hosts, workers and small VMs to it. `further_clusters` names more clusters under the
    same Prism Central, each with a host, a container and a worker `<name>-worker`.
    `port` 0 takes any free ports. Errors: MissingToolError without e2fsprogs, StateInUseError, OSError for a port that is taken.
    """

    def __init__(
        self,
        *,
        state: Path | None = None,
        port: int = 0,
        size: float = 1.0,
        seed: str = DEFAULT_SEED,
        settings: Settings | None = None,
        clock: Clock | None = None,
        faults: FaultPlan | None = None,
        crowd: Crowd | None = None,
        further_clusters: Sequence[str] = (),
    ) -> None:
        self._state, self._port, self._size, self._seed = state, port, size, seed
        self._crowd, self._further_clusters = crowd, tuple(further_clusters)
        self._settings = settings or Settings()
        self._clock = clock or Clock()
        self._faults = FaultPlayer(faults)
        self._resources = ExitStack()
        self.username = USERNAME
        self.cluster: Cluster
        self.story: Story
        self.ca_file: Path
        self.pc_url: str
        self.pe_url: str
        self.iscsi_portal: str

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._resources = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._resources.close()

    def _start(self, stack: ExitStack) -> None:
        require_tools()
        # A port that is taken should not cost the seconds that building disks takes.
        central, elements = bind_all(self._port)
        for listening in (central, *elements):
            stack.callback(listening.close)
        state = self._state.resolve() if self._state is not None else None
        if state is None:
            state = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="ahvault-simulator-"))
            )
        self.cluster = Cluster(
            state,
            settings=self._settings,
            clock=self._clock,
            seed=self._seed,
            faults=self._faults,
        )
        stack.callback(self.cluster.close)
        if self.cluster.is_new:
            self._populate()
        self.cluster.start()
        self.story = Story(self.cluster)
        self.ca_file, server_file = prepare_certificates(state)
        self._listen(stack, [central], elements, server_file)
        self.iscsi_portal = self._serve_disks(stack)

    def _populate(self) -> None:
        if self._crowd is None:
            populate(self.cluster, self._size)
        else:
            populate(self.cluster, self._size, self._crowd.host_count)
            populate_crowd(self.cluster, self._crowd)
        for name in self._further_clusters:
            add_cluster(self.cluster, name)

    def _listen(
        self,
        stack: ExitStack,
        central_sockets: list[socket.socket],
        element_sockets: list[socket.socket],
        server_file: Path,
    ) -> None:
        """Open both listeners. Each must know both addresses, so sockets come before doors."""
        urls: dict[str, str] = {}
        doors: dict[Side, TroubledDoors] = {}

        def central(request: Request) -> Response:
            return doors["central"].respond(request)

        def element(request: Request) -> Response:
            return doors["element"].respond(request)

        listeners = (
            Listener(central, central_sockets, server_file, "simulator-central"),
            Listener(element, element_sockets, server_file, "simulator-element"),
        )
        names = ("central", "element", "further_element")
        everywhere = [url for listener in listeners for url in listener.urls]
        urls |= dict(zip(names, (*everywhere, everywhere[-1]), strict=False))
        admin = administrator(self.story)
        sides: tuple[Side, ...] = ("central", "element")
        for side in sides:
            honest = Doors(self.cluster, side, CATALOGUES, admin, urls)
            doors[side] = TroubledDoors(honest, side, self.cluster, self._faults)
        for listener in listeners:
            stack.callback(listener.stop)
            listener.start()
        for listener in listeners:
            stack.callback(listener.ask_to_stop)
        self.pc_url, self.pe_url = urls["central"], urls["element"]

    def _serve_disks(self, stack: ExitStack) -> str:
        """Open the iSCSI portal, or two of which the first sends to the second; returns the first."""
        exports = GroupExports(self.cluster)
        behind: Portal | None = None
        if self._settings.redirects_iscsi:
            behind = Portal(bind_data_services(0), exports)
            behind.start()
            stack.callback(behind.stop)
        address = behind.address if behind else None
        portal = Portal(bind_data_services(self._port), exports, redirects_to=address)
        portal.start()
        stack.callback(portal.stop)
        return portal.address

    # -- what a client needs to know -----------------------------------------------------------

    @property
    def password(self) -> str:
        """The password of `username`, random per state directory."""
        return self.cluster.password

    @property
    def admin_url(self) -> str:
        """Where the actions of `story` are reached over HTTPS, with the same credentials."""
        return f"{self.pc_url}{ADMIN_PATH}"

    @property
    def clock(self) -> Clock:
        """The clock, which can be advanced."""
        return self._clock

    @property
    def workers(self) -> list[Worker]:
        """The worker VMs."""
        return [
            Worker(r.document["name"], r.ext_id, self.cluster.devices.folder(r.document["name"]))
            for r in self.cluster.documents.all("vm")
            if r.private.get("is_worker")
        ]

    def vm_id(self, name: str) -> str:
        """Id of the VM with this name. KeyError if there is none."""
        return {r.document["name"]: r.ext_id for r in self.cluster.documents.all("vm")}[name]

    def describe(self) -> Mapping[str, Any]:
        """All of that as the JSON object that the program prints when it is ready."""
        return {
            "pc_url": self.pc_url,
            "pe_url": self.pe_url,
            "username": self.username,
            "password": self.password,
            "ca_file": str(self.ca_file),
            "admin_url": self.admin_url,
            "iscsi_portal": self.iscsi_portal,
            "workers": [
                {"name": w.name, "ext_id": w.ext_id, "device_root": str(w.device_root)}
                for w in self.workers
            ],
        }


def serve(
    *,
    port: int = 9440,
    state: Path | None = None,
    size: float = 1.0,
    seed: str = DEFAULT_SEED,
    settings: Settings | None = None,
    faults: Path | None = None,
    crowd: Crowd | None = None,
) -> int:
    """Run until SIGTERM or SIGINT; returns an exit code (0; 1 after a message on standard error).

    `faults` names a file with a plan of faults. When ready, prints one line of JSON to standard output (`Simulator.describe`). Only in a main thread.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        plan = load_plan(faults) if faults is not None else None
        with Simulator(
            state=state,
            port=port,
            size=size,
            seed=seed,
            settings=settings,
            faults=plan,
            crowd=crowd,
        ) as simulator:
            sys.stdout.write(json.dumps(simulator.describe()) + "\n")
            sys.stdout.flush()
            stop.wait()
    except (SimulatorError, OSError) as error:
        sys.stderr.write(f"simulator: {error}\n")
        return 1
    return 0
