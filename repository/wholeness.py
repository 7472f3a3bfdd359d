"""Whether what restore points need is still there, though collection has deleted much."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set

from repository.errors import DamagedObject, ObjectNotFound
from repository.generations import pack_ids
from repository.locating import known_chunks
from repository.maps import DiskMap, open_disk_map
from repository.places import in_packs
from repository.points import DiskRecord
from repository.records import RecordCodec
from repository.store import Store


def is_whole(
    store: Store, records: RecordCodec, disks: Iterable[DiskRecord], gone: Set[str]
) -> bool:
    """Whether every map and chunk of the disks lies somewhere that is not gone.

    Reads maps; the index too, if chunks lay in packs that are gone. Raises DamagedObject for a map,
    or the store's errors.
    """
    lost: set[bytes] = set()
    for disk in disks:
        disk_map = None if map_names(disk) & gone else open_if_there(store, records, disk)
        if disk_map is None:
            return False
        lost.update(_chunks_in(disk_map, pack_ids(gone)))
    if not lost:
        return True
    index = known_chunks(store, records, pack_ids(gone))
    try:
        return all(place is not None for place in index.find(list(lost)))
    finally:
        index.close()


def open_if_there(store: Store, records: RecordCodec, disk: DiskRecord) -> DiskMap | None:
    """The map of a disk as it was written, or None if a part of it was deleted."""
    try:
        return open_disk_map(store, disk, records.keys, records.sealer)
    except ObjectNotFound:
        return None
    except DamagedObject as error:
        if isinstance(error.__cause__, ObjectNotFound):
            return None
        raise


def map_names(disk: DiskRecord) -> set[str]:
    """Names of the objects that make up its map."""
    return {ref.key for ref in disk.maps}


def _chunks_in(disk_map: DiskMap, packs: Set[bytes]) -> Iterator[bytes]:
    for number in range(disk_map.shape.window_count):
        places = disk_map.window(number)
        yield from (chunk_id.tobytes() for chunk_id in places[in_packs(places, packs)]["id"])
