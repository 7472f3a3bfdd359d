"""Creating an object exactly once, also when the store's answer is lost."""

from __future__ import annotations

from repository.errors import ObjectExists, ObjectNotFound, StoreUnavailable
from repository.ports import Buffer, Pace
from repository.store import Store


def create(store: Store, key: str, *pieces: Buffer, pace: Pace | None = None) -> bool:
    """Create the object; False if another one has that name. Durable on return.

    A lost answer is resolved by reading back: what is there with these bytes is ours. Raises the
    store's errors, after which it is unknown whether the object exists.
    """
    try:
        store.put_new(key, *pieces, pace=pace)
    except (ObjectExists, StoreUnavailable) as error:
        try:
            return store.get(key) == b"".join(pieces)
        except ObjectNotFound:
            raise error from None
    return True


def create_own(store: Store, key: str, *pieces: Buffer, pace: Pace | None = None) -> None:
    """Create an object whose name is random, so that whatever has that name must be ours.

    As `create`, but raises ObjectExists if there are other bytes.
    """
    if not create(store, key, *pieces, pace=pace):
        raise ObjectExists(key)
