"""What only stores on servers can get wrong: conditions ignored, answers lost, connections dropped."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import asyncssh
import pytest

from repository import (
    DamagedObject,
    InvalidInput,
    ObjectExists,
    Passphrase,
    Repository,
    RepositoryExists,
    StoreDenied,
    StoreFull,
    StoreUnavailable,
)
from repository.creating import create_own
from repository.store import Store
from repository.stores import creates_exclusively
from tests.repository.conftest import Bench, MemoryDisk
from tests.repository.fault_store import FaultStore

Open = Callable[[str, dict[str, Any]], Store]


class Forwarder(BaseHTTPRequestHandler):
    """An S3 server that answers as it is told: an error, or no regard for conditions."""

    answer: tuple[int, str] | None = None
    objects: dict[str, bytes] = {}

    def do_PUT(self) -> None:
        self.objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self._send(200, b"", {"ETag": '"1"'})

    def do_GET(self) -> None:
        found = self.objects.get(self.path)
        last = {"ETag": '"1"', "Last-Modified": "Mon, 23 Nov 2026 00:00:00 GMT"}
        self._send(404 if found is None else 200, found or b"", last)

    def do_POST(self) -> None:
        request = self.rfile.read(int(self.headers["Content-Length"])).decode()
        for key in re.findall("<Key>(.*?)</Key>", request):
            self.objects.pop(f"/bucket/{key}", None)
        self._send(200, b"<DeleteResult></DeleteResult>", {})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        if self.answer:
            status, code = self.answer
            body = f"<Error><Code>{code}</Code></Error>".encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def careless(open_closed_later: Open) -> Any:
    """A store on such a server, and the handler class to tell it what to answer."""
    handler = type("Careless", (Forwarder,), {"objects": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    options = {
        "endpoint": f"http://127.0.0.1:{server.server_port}",
        "access_key_id": "id",
        "secret_access_key": "hush-hush",
        "retry_config": {"max_retries": 0},
    }
    yield open_closed_later("s3://bucket/folder", options), handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_that_ignores_the_condition_is_found_out(careless: Any) -> None:
    """It accepts If-None-Match and overwrites: the probe says so and leaves nothing behind."""
    store, handler = careless
    assert not creates_exclusively(store)
    assert handler.objects == {}


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (403, "AccessDenied", StoreDenied),
        (401, "Unauthorized", StoreDenied),
        (507, "InsufficientStorage", StoreFull),
        (403, "QuotaExceeded", StoreFull),
        (503, "SlowDown", StoreUnavailable),
        (500, "InternalError", StoreUnavailable),
    ],
)
def test_s3_trouble_is_typed(careless: Any, status: int, code: str, error: type[Exception]) -> None:
    """Denied, full and unavailable are told apart for every operation, without the secret."""
    store, handler = careless
    handler.answer = (status, code)
    calls: list[Callable[[], object]] = [
        lambda: store.put_new("a", b"1"),
        lambda: store.put("a", b"1"),
        lambda: store.get("a"),
        lambda: store.get_range("a", 0, 1),
        lambda: list(store.list("a/")),
    ]
    for call in calls:
        with pytest.raises(error) as caught:
            call()
        assert "hush-hush" not in str(caught.value) + repr(caught.value)


def test_a_bucket_that_is_not_there_is_no_missing_object(
    s3_place: tuple[str, dict[str, Any]], open_closed_later: Open
) -> None:
    """Writing to no bucket is the store's trouble and says what is missing."""
    store = open_closed_later("s3://no-such-bucket/x", s3_place[1])
    with pytest.raises(StoreUnavailable, match="bucket"):
        store.put_new("repo.json", b"1")


def test_s3_settings_that_do_not_fit_are_refused_without_secrets() -> None:
    """An unknown option is named as the caller's mistake; its value is not shown."""
    with pytest.raises(InvalidInput, match="storage options") as caught:
        Repository.open("s3://bucket/x", storage_options={"no_such_option": "hush-hush"})
    assert "hush-hush" not in str(caught.value)
    with pytest.raises(InvalidInput, match="no bucket"):
        Repository.open("s3:///x")


def test_sftp_refuses_an_unknown_server(sftp_server: Any, open_closed_later: Open) -> None:
    """The server's key must be known, whatever the library's default is."""
    store = open_closed_later(sftp_server.url, sftp_server.options(known_hosts=([], [], [])))
    with pytest.raises(StoreDenied, match=r"[Hh]ost key"):
        store.stat("repo.json")


def test_sftp_connects_again_after_a_lost_connection(
    sftp_server: Any, open_closed_later: Open
) -> None:
    """A server that goes is unavailable; when it is back the same store works on."""
    store = open_closed_later(sftp_server.url, sftp_server.options())
    store.put_new("a/b", b"1")
    sftp_server.stop()
    with pytest.raises(StoreUnavailable):
        store.get("a/b")
    sftp_server.start()
    assert store.get("a/b") == b"1"


def test_sftp_writes_leave_nothing_else(sftp_server: Any, open_closed_later: Open) -> None:
    """After writes and refusals there are no temporary files, and listings show none."""
    store = open_closed_later(sftp_server.url, sftp_server.options())
    store.put_new("a/b", b"1")
    with pytest.raises(ObjectExists):
        store.put_new("a/b", b"2")
    folder = sftp_server.root / "not" / "yet" / "there" / "a"
    assert [path.name for path in folder.iterdir()] == ["b"]
    (folder / ".left-by-a-crash.tmp").write_bytes(b"torn")
    assert [info.key for info in store.list("a/")] == ["a/b"]


def test_an_sftp_server_without_links_still_serves(
    sftp_server: Any, open_closed_later: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects are still whole and never replaced, and it is known not to be exclusive."""

    async def refuse(*_: Any) -> None:
        raise asyncssh.SFTPOpUnsupported("no links")

    monkeypatch.setattr(asyncssh.SFTPClient, "link", refuse)
    store = open_closed_later(sftp_server.url, sftp_server.options())
    assert not creates_exclusively(store)
    store.put_new("a/b", b"1")
    with pytest.raises(ObjectExists):
        store.put_new("a/b", b"2")
    assert store.get("a/b") == b"1"


def test_sftp_urls_hold_no_password() -> None:
    """A password in the URL would be shown with it, so it is refused, unseen."""
    with pytest.raises(InvalidInput, match="password") as caught:
        Repository.open("sftp://backup:hush-hush@example.com/x")
    assert "hush-hush" not in str(caught.value)


def test_a_lost_answer_is_resolved_by_reading_back(bench: Bench) -> None:
    """A write that was done though its answer was lost counts as done; other bytes do not."""
    store = FaultStore(bench.repository._store)

    def lose(operation: str, key: str) -> None:
        if operation == "put_new":
            raise StoreUnavailable("write", key, "the answer was lost")

    store.after = lose
    create_own(store, "data/00/x", b"mi", b"ne")
    assert store.inner.get("data/00/x") == b"mine"
    with pytest.raises(ObjectExists):
        create_own(store, "data/00/x", b"theirs")


def test_a_repository_works_on_every_store(place: tuple[str, dict[str, Any]]) -> None:
    """Made once, written, committed, opened anew, restored and verified; encrypted."""
    url, options = place
    secret = Passphrase("correct horse", scrypt_n=2**4)
    bench = Bench(url, options, secret=secret)
    with pytest.raises(RepositoryExists):
        Repository.create(url, storage_options=options)
    assert creates_exclusively(bench.repository._store)
    disk = MemoryDisk(bytes(range(256)) * 2048 + bytes(200_000) + b"end")
    point = bench.commit(bench.write(disk))
    with bench.reopened() as reopened:
        assert [found.id for found in reopened.points().points] == [point.id]
        target = MemoryDisk(disk.size_bytes)
        reopened.open_disk(point, "disk-1").restore_to(target, target_is_blank=True)
        assert target.data == disk.data
        assert reopened.verify().is_clean
    bench.repository.close()


def test_a_short_object_is_damage_on_every_store(store: Store) -> None:
    """A range that starts behind the end is damage too, not trouble of the store."""
    store.put_new("x", b"0123456789")
    with pytest.raises(DamagedObject):
        store.get_range("x", 20, 3)
