"""Does a store really refuse to replace an object? Many S3 servers accept the condition and overwrite."""

from __future__ import annotations

import logging
import uuid

from repository.errors import ObjectExists, StoreError
from repository.store import Store

_LOG = logging.getLogger(__name__)


def creates_exclusively(store: Store) -> bool:
    """What the store says of itself; if it cannot know, create an object twice and look whose it is.

    Writes one small object named `probe/<UUID>`, which no reader looks at, and deletes it again
    (where deleting is denied it stays). Raises the store's errors if it cannot be written or read.
    """
    known = store.capabilities.create_exclusive
    if known is None:
        # In this order: at its first write a store may find out what it cannot do.
        known = _keeps_the_first(store) and store.capabilities.create_exclusive is not False
    return known


def _keeps_the_first(store: Store) -> bool:
    key = f"probe/{uuid.uuid4().hex}"
    store.put_new(key, b"first")
    try:
        store.put_new(key, b"second")
    except ObjectExists:
        return store.get(key) == b"first"
    else:
        return False
    finally:
        try:
            store.delete(key)
        except StoreError as error:
            _LOG.warning("the probe object stays: %s", error)
