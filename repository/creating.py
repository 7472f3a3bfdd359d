"""Creating an object exactly once, also when the store's answer is lost."""

from __future__ import annotations

from repository.errors import ObjectExists, ObjectNotFound, StoreUnavailable
from repository.ports import Buffer
from repository.store import Store


def create(store: Store, key: str, stored: Buffer) -> bool:
    """Create the object; False if another one has that name. Durable on return.

    A lost answer is resolved by reading back: what is there with these bytes is ours. Raises the
    store's errors, after which it is unknown whether the object exists.
    """
    try:
        store.put_new(key, stored)
    except (ObjectExists, StoreUnavailable) as error:
        try:
            return store.get(key) == bytes(stored)
        except ObjectNotFound:
            raise error from None
    return True
