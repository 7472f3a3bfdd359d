"""Servers of the tests' own: S3 in a child process, SFTP in a thread."""

from __future__ import annotations

import asyncio
import http.client
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from repository.store import Store
from repository.stores import open_store

Place = tuple[str, dict[str, Any]]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """moto's S3 server over HTTP, in a process of its own; yields its endpoint."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "moto.server",
        "-H",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + 60
        while not answers(port):
            assert process.poll() is None, "the S3 server ended"
            assert time.monotonic() < deadline_s, "the S3 server does not answer"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def answers(port: int) -> bool:
    try:
        return request(port, "GET", "/") == 200
    except OSError:
        return False


def request(port: int, method: str, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture
def s3_place(s3_server: str) -> Place:
    """A new bucket: URL of a folder in it, and the storage options."""
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    assert request(int(s3_server.rpartition(":")[2]), "PUT", f"/{bucket}") == 200
    options = {
        "endpoint": s3_server,
        "region": "us-east-1",
        "access_key_id": "id",
        "secret_access_key": "key",
        "retry_config": {"max_retries": 0},
    }
    return f"s3://{bucket}/folder/below", options


class SftpServer:
    """An SFTP server over a folder, in a thread with an event loop of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sftp-server")
        self._thread.start()
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.user_key = asyncssh.generate_private_key("ssh-ed25519")
        self._acceptor: Any = None
        self._connections: list[Any] = []
        self.port = 0
        self.start()

    def start(self) -> None:
        self._acceptor = self._call(self._listen())
        self.port = self._acceptor.get_port()

    async def _listen(self) -> Any:
        keys = asyncssh.import_authorized_keys(self.user_key.export_public_key().decode())
        return await asyncssh.listen(
            "127.0.0.1",
            self.port,
            acceptor=self._connections.append,
            server_host_keys=[self.host_key],
            authorized_client_keys=keys,
            sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=str(self.root)),
        )

    def stop(self) -> None:
        """End the server and every connection to it."""

        async def end() -> None:
            self._acceptor.close()
            for connection in self._connections:
                connection.abort()
                await connection.wait_closed()
            self._connections.clear()
            await self._acceptor.wait_closed()

        self._call(end())

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def options(self, **changes: Any) -> dict[str, Any]:
        return {
            "client_keys": [self.user_key],
            "known_hosts": ([self.host_key.convert_to_public()], [], []),
            "config": [],
            **changes,
        }

    @property
    def url(self) -> str:
        return f"sftp://backup@127.0.0.1:{self.port}/not/yet/there"


@pytest.fixture
def sftp_server(tmp_path: Path) -> Iterator[SftpServer]:
    """A server over an empty folder."""
    root = tmp_path / "sftp"
    root.mkdir()
    server = SftpServer(root)
    yield server
    server.close()


@pytest.fixture(params=["local", "memory", "s3", "sftp"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """URL and storage options of an empty place in each kind of store."""
    if request.param == "local":
        return str(tmp_path / "not" / "yet" / "there"), {}
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/below", {}
    if request.param == "s3":
        found: Place = request.getfixturevalue("s3_place")
        return found
    server: SftpServer = request.getfixturevalue("sftp_server")
    return server.url, server.options()


@pytest.fixture
def open_closed_later() -> Iterator[Callable[[str, dict[str, Any]], Store]]:
    """Opens stores that are closed when the test ends."""
    opened: list[Store] = []

    def open_one(url: str, options: dict[str, Any]) -> Store:
        opened.append(open_store(url, options))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(place: Place, open_closed_later: Callable[[str, dict[str, Any]], Store]) -> Store:
    """An empty store of each kind."""
    return open_closed_later(*place)
