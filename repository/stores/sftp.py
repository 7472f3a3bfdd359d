"""A folder on an SFTP server as a store (docs/decisions/0003-obstore-and-asyncssh.md).

As in a local folder: a temporary file, synced where the server can, then linked (new objects) or
renamed (replaced ones) to its name, so that no reader ever sees part of an object.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

import asyncssh
from asyncssh import SFTPClient, SFTPClientFile, SSHClientConnection
from fsspec.asyn import get_loop, sync

from repository.errors import (
    DamagedObject,
    InvalidInput,
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from repository.pacing import paced
from repository.ports import Buffer, Pace
from repository.store import ObjectInfo, StoreCapabilities

_TEMPORARY_PREFIX = "."  # names of our own never start so; listings leave these out
_FULL = ("no space", "quota", "disk full")
_CONNECTION_LOST = (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection)
_KEEPALIVE_S = 30
_PARTS_IN_FLIGHT = 16  # 4 MiB on their way: a distant server is not waited for after every part
_PACED_UPLOADS_MAX = 64

Result = TypeVar("Result")
_Found: TypeAlias = list[ObjectInfo]


class SftpStore:
    """A folder at `sftp://user@host:port/folder`.

    `storage_options` go to `asyncssh.connect` (`client_keys`, `password`, `known_hosts`, ...). The
    server's key must be known, as with any SSH client. Connects at the first call, and again after
    a connection was lost. Exclusive creation uses hard links; whether the server has them is probed.
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        parts = urlsplit(url)
        if not parts.hostname or parts.password:
            reason = "holds a password; put it into the storage options"
            raise InvalidInput("repository URL", reason if parts.password else "names no host")
        self._url = url
        self._root = unquote(parts.path).rstrip("/")
        self._options: dict[str, Any] = {"keepalive_interval": _KEEPALIVE_S, "host": parts.hostname}
        self._options |= {"port": parts.port} if parts.port else {}
        self._options |= {"username": unquote(parts.username)} if parts.username else {}
        self._options |= storage_options or {}
        self._has_links = True  # until the server says otherwise
        self._connecting = threading.Lock()
        self._connection: SSHClientConnection | None = None
        self._client: SFTPClient | None = None
        # A limit is waited for in threads: the event loop serves all transfers.
        self._waiting = ThreadPoolExecutor(_PACED_UPLOADS_MAX, "ahvault-sftp-pace")

    @property
    def url(self) -> str:
        return self._url

    @property
    def host(self) -> str | None:
        return str(self._options["host"])

    @property
    def encrypts_transport(self) -> bool:
        return True

    @property
    def capabilities(self) -> StoreCapabilities:
        exclusive = None if self._has_links else False
        return StoreCapabilities(create_exclusive=exclusive, high_latency=True)

    def put_new(self, key: str, *pieces: Buffer, pace: Pace | None = None) -> None:
        self._run("write", key, lambda sftp: self._place(sftp, key, pieces, pace, new=True))

    def put(self, key: str, *pieces: Buffer) -> None:
        self._run("write", key, lambda sftp: self._place(sftp, key, pieces, None, new=False))

    def get(self, key: str) -> bytes:
        return self._run("read", key, lambda sftp: self._read(sftp, key, -1, 0))

    def get_range(self, key: str, offset_bytes: int, length_bytes: int) -> bytes:
        data = self._run(
            "read", key, lambda sftp: self._read(sftp, key, length_bytes, offset_bytes)
        )
        if len(data) != length_bytes:
            raise DamagedObject(key, f"ends before byte {offset_bytes + length_bytes}")
        return data

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        found: list[ObjectInfo] = []
        self._run("list", prefix, lambda sftp: self._walk(sftp, prefix, found))
        yield from sorted(found, key=lambda info: info.key)

    def delete(self, key: str) -> None:
        with suppress(ObjectNotFound):
            self._run("delete", key, lambda sftp: sftp.remove(self._path(key)))

    def stat(self, key: str) -> ObjectInfo | None:
        try:
            found = self._run("look at", key, lambda sftp: sftp.stat(self._path(key)))
        except ObjectNotFound:
            return None
        return ObjectInfo(key, int(found.size or 0))

    def close(self) -> None:
        """End the connection."""
        with self._connecting:
            self._drop()
        self._waiting.shutdown()

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _run(
        self, operation: str, key: str, work: Callable[[SFTPClient], Awaitable[Result]]
    ) -> Result:
        """Do the work in the event loop's thread; raises the store's own errors only."""

        client: SFTPClient | None = None
        try:
            client = self._connected()
            result: Result = sync(get_loop(), work, client)
        except StoreError:
            raise
        except (asyncssh.Error, OSError) as error:
            raise self._translated(operation, key, error, client) from error
        return result

    def _connected(self) -> SFTPClient:
        async def connect() -> tuple[SSHClientConnection, SFTPClient]:
            connection = await asyncssh.connect(**self._options)
            return connection, await connection.start_sftp_client()

        with self._connecting:
            if self._client is None:
                self._connection, self._client = sync(get_loop(), connect)
            return self._client

    def _drop(self) -> None:
        async def end(connection: SSHClientConnection) -> None:
            connection.close()
            await connection.wait_closed()

        if self._connection is not None:
            sync(get_loop(), end, self._connection)
        self._connection = self._client = None

    def _translated(
        self, operation: str, key: str, error: Exception, client: SFTPClient | None
    ) -> StoreError:
        detail = str(error) or type(error).__name__
        if isinstance(error, asyncssh.SFTPNoSuchFile | asyncssh.SFTPNoSuchPath):
            return ObjectNotFound(key, operation)
        if isinstance(
            error,
            asyncssh.PermissionDenied
            | asyncssh.SFTPPermissionDenied
            | asyncssh.HostKeyNotVerifiable,
        ):
            return StoreDenied(operation, key, detail)
        if any(word in detail.lower() for word in _FULL):
            return StoreFull(operation, key, detail)
        if not isinstance(error, asyncssh.SFTPError) or isinstance(error, _CONNECTION_LOST):
            with self._connecting:
                if client is not None and client is self._client:  # the next call connects anew
                    self._drop()
        return StoreUnavailable(operation, key, detail)

    async def _place(
        self,
        sftp: SFTPClient,
        key: str,
        pieces: Sequence[Buffer],
        pace: Pace | None,
        *,
        new: bool,
    ) -> None:
        final = self._path(key)
        folder = final.rpartition("/")[0]
        temporary = f"{folder}/{_TEMPORARY_PREFIX}{uuid.uuid4().hex}.tmp"
        try:
            await self._write(sftp, temporary, folder, pieces, pace)
            if new:
                await self._link(sftp, temporary, final, key)
            else:
                await sftp.posix_rename(temporary, final)
        finally:
            with suppress(asyncssh.SFTPNoSuchFile):
                await sftp.remove(temporary)

    async def _write(
        self,
        sftp: SFTPClient,
        path: str,
        folder: str,
        pieces: Sequence[Buffer],
        pace: Pace | None,
    ) -> None:
        try:
            file = await sftp.open(path, "wb")
        except asyncssh.SFTPNoSuchFile:
            await sftp.makedirs(folder, exist_ok=True)
            file = await sftp.open(path, "wb")
        async with file:
            if pace is None:
                await file.write(b"".join(pieces))
            else:
                await self._write_paced(file, paced(pieces, pace))
            with suppress(asyncssh.SFTPOpUnsupported):  # then the server's word has to do
                await file.fsync()

    async def _write_paced(
        self, file: SFTPClientFile, parts: Iterator[Sequence[memoryview]]
    ) -> None:
        loop = asyncio.get_running_loop()
        sending: set[asyncio.Task[int]] = set()
        offset_bytes = 0
        try:
            while part := await loop.run_in_executor(self._waiting, next, parts, None):
                data = b"".join(part)
                sending.add(asyncio.create_task(file.write(data, offset_bytes)))
                offset_bytes += len(data)
                if len(sending) >= _PARTS_IN_FLIGHT:
                    sent, sending = await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
                    await asyncio.gather(*sent)
            await asyncio.gather(*sending)
        finally:
            for each in sending:
                each.cancel()
            await asyncio.gather(*sending, return_exceptions=True)

    async def _link(self, sftp: SFTPClient, temporary: str, final: str, key: str) -> None:
        """Give a finished file its name unless there is one; servers say "failure" to that."""
        try:
            await sftp.link(temporary, final)
        except asyncssh.SFTPOpUnsupported:
            # Plain SFTP rename refuses to replace, if the server keeps to the protocol; not all do.
            self._has_links = False
            if await sftp.exists(final):
                raise ObjectExists(key) from None
            await sftp.rename(temporary, final)
        except asyncssh.SFTPError as error:
            if await sftp.exists(final):
                raise ObjectExists(key) from error
            raise

    async def _read(self, sftp: SFTPClient, key: str, length: int, offset: int) -> bytes:
        async with await sftp.open(self._path(key), "rb") as file:
            data: bytes = await file.read(length, offset)
        return data

    async def _walk(self, sftp: SFTPClient, prefix: str, found: _Found) -> None:
        try:
            entries = await sftp.readdir(self._path(prefix).rstrip("/"))
        except asyncssh.SFTPNoSuchFile:
            return
        for entry in entries:
            name = str(entry.filename)
            if name.startswith(_TEMPORARY_PREFIX):
                continue
            if entry.attrs.type == asyncssh.FILEXFER_TYPE_DIRECTORY:
                await self._walk(sftp, f"{prefix}{name}/", found)
            else:
                found.append(ObjectInfo(f"{prefix}{name}", int(entry.attrs.size or 0)))
