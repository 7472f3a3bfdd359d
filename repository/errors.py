"""What can go wrong, as one tree; a class is what a handler would do about it.

    RepositoryError
    ├── InvalidInput (ValueError)      the caller asked for something that cannot be
    ├── NotARepository                 nothing there that we made: check the URL, or create one
    ├── RepositoryExists               create refused: open it, or choose another place
    ├── UnsupportedFormat              made by a newer ahvault: update this one
    ├── KeyProblem                     the repository is encrypted and the key given does not open it
    ├── PointNotFound (KeyError)       no such restore point
    ├── DiskNotFound (KeyError)        the restore point has no such disk
    ├── PointHeld                      somebody holds the restore point: release it first
    ├── PointInUse                     a running session builds on it: wait for its end
    ├── PointCollected                 too late to bring it back: its data is being deleted
    ├── CollectionRefused              something does not add up, so nothing is deleted
    ├── DamagedObject                  stored bytes are not what was written: run verify
    ├── CommitFailed                   the commit record does not read back as written
    ├── RetentionRefused               a plan drops suspiciously much (in retention.py): look, then force it
    ├── Stopped                        the caller's stop event was set
    └── StoreError                     the store below refused or failed
        ├── StoreUnavailable           transient: try again
        ├── StoreFull                  no space or quota left
        ├── StoreDenied                credentials or permissions
        ├── ObjectNotFound (KeyError)
        └── ObjectExists               put_new lost the race, or a lost answer was ours: read back

Every error carries the fields its message is built from. None ever carries a secret.
"""

from __future__ import annotations

from typing import ClassVar


class RepositoryError(Exception):
    """Root of everything the engine raises on purpose."""

    kind: ClassVar[str] = "repository"
    is_transient: ClassVar[bool] = False


class InvalidInput(RepositoryError, ValueError):
    """An argument cannot be right; nothing was done."""

    kind = "invalid-input"

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"{what}: {reason}")


class NotARepository(RepositoryError):
    """There is no repository at the URL."""

    kind = "not-a-repository"

    def __init__(self, url: str) -> None:
        self.url = url
        super().__init__(
            f"{url} holds no repository (no repo.json); check the address, "
            "or make one there with `ahvault repo init`"
        )


class RepositoryExists(RepositoryError):
    """A repository, or something else that is not empty, is already there."""

    kind = "repository-exists"

    def __init__(self, url: str) -> None:
        self.url = url
        super().__init__(f"{url} already holds a repository; use it, or choose another place")


class UnsupportedFormat(RepositoryError):
    """The repository needs abilities that this version does not have."""

    kind = "unsupported-format"

    def __init__(self, url: str, needed: str) -> None:
        self.url = url
        self.needed = needed
        super().__init__(f"{url} needs {needed}, which this ahvault cannot do; update ahvault")


class KeyProblem(RepositoryError):
    """The repository is encrypted and no key given opens it; says nothing about damage."""

    kind = "key-problem"

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        self.reason = reason
        super().__init__(f"{url} is encrypted: {reason}")


class PointNotFound(RepositoryError, KeyError):
    """No restore point has this id."""

    kind = "point-not-found"

    def __init__(self, point_id: str) -> None:
        self.point_id = point_id
        super().__init__(point_id)

    def __str__(self) -> str:
        return f"no restore point {self.point_id}; `ahvault points` lists those there are"


class DiskNotFound(RepositoryError, KeyError):
    """The restore point does not hold this disk."""

    kind = "disk-not-found"

    def __init__(self, disk_id: str, point_id: str, disk_ids: list[str]) -> None:
        self.disk_id = disk_id
        self.point_id = point_id
        self.disk_ids = disk_ids
        super().__init__(disk_id)

    def __str__(self) -> str:
        known = ", ".join(self.disk_ids) or "none"
        return f"restore point {self.point_id} has no disk {self.disk_id}; its disks: {known}"


class PointHeld(RepositoryError):
    """Somebody holds the restore point, so it cannot be forgotten."""

    kind = "point-held"

    def __init__(self, point_id: str, reason: str) -> None:
        self.point_id = point_id
        self.reason = reason
        why = f" ({reason})" if reason else ""
        super().__init__(f"restore point {point_id} is held{why}; release it first")


class PointInUse(RepositoryError):
    """A running session builds on the restore point; it can be forgotten when that has ended."""

    kind = "point-in-use"
    is_transient = True

    def __init__(self, point_id: str, session_id: str) -> None:
        self.point_id = point_id
        self.session_id = session_id
        session = f"session {session_id}" if session_id else "a session whose lease is unreadable"
        super().__init__(
            f"restore point {point_id} is what {session} builds on; forget it when that has ended"
        )


class PointCollected(RepositoryError):
    """The restore point's data is being deleted; it cannot be brought back."""

    kind = "point-collected"

    def __init__(self, point_id: str, generation: int) -> None:
        self.point_id = point_id
        self.generation = generation
        super().__init__(
            f"restore point {point_id} cannot be brought back: "
            f"by generation {generation}, collection has deleted data of it or begun to"
        )


class CollectionRefused(RepositoryError):
    """Collection found something that does not add up. Nothing was deleted."""

    kind = "collection-refused"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"nothing was collected: {reason}")


class DamagedObject(RepositoryError):
    """A stored object does not hold what was written."""

    kind = "damaged-object"

    def __init__(self, key: str, detail: str) -> None:
        self.key = key
        self.detail = detail
        super().__init__(f"stored object {key} is damaged: {detail}; run `ahvault verify`")


class CommitFailed(RepositoryError):
    """The restore point was written but does not read back as written; do not rely on it."""

    kind = "commit-failed"

    def __init__(self, key: str, detail: str) -> None:
        self.key = key
        self.detail = detail
        super().__init__(f"restore point {key} was not committed: {detail}; run the backup again")


class Stopped(RepositoryError):
    """The caller's stop event was set; what was stored so far is reused by the next run."""

    kind = "stopped"

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"{what} was stopped on request")


class StoreError(RepositoryError):
    """The store below refused or failed; `operation` and `key` say where."""

    kind = "store"

    def __init__(self, operation: str, key: str, detail: str) -> None:
        self.operation = operation
        self.key = key
        self.detail = detail
        super().__init__(self.sentence())

    def sentence(self) -> str:
        return f"the store failed to {self.operation} {self.key}: {self.detail}"


class StoreUnavailable(StoreError):
    """The store did not answer, or answered with trouble of its own."""

    kind = "store-unavailable"
    is_transient = True


class StoreFull(StoreError):
    """No space or quota left; what was committed before is untouched."""

    kind = "store-full"

    def sentence(self) -> str:
        return (
            f"the repository's store is full ({self.operation} {self.key}: {self.detail}); "
            "free space or raise the quota, then run again: what is already stored is reused"
        )


class StoreDenied(StoreError):
    """The store refuses these credentials or permissions."""

    kind = "store-denied"

    def sentence(self) -> str:
        return f"the store refuses to {self.operation} {self.key}: {self.detail}; check permissions"


class ObjectNotFound(StoreError, KeyError):
    """There is no such object."""

    kind = "object-not-found"

    def __init__(self, key: str, operation: str = "read") -> None:
        super().__init__(operation, key, "no such object")

    def __str__(self) -> str:
        return self.sentence()


class ObjectExists(StoreError):
    """`put_new` found an object under this name; its bytes decide whether it is ours."""

    kind = "object-exists"

    def __init__(self, key: str) -> None:
        super().__init__("create", key, "an object of this name exists")
