"""The records of collection: numbered generations, each a plan, an outcome and a done mark.

    gc/<n>/plan.json      what generation n condemns; its creation begins the generation
    gc/<n>/outcome.json   `sweep` with what is deleted, or `cancel`; whoever creates it decides
    gc/<n>/done.json      everything named by the outcome is deleted
    gc/<n>/<uuid>.parquet lists of object names, referred to by the two

Plan and outcome are created exclusively: of two that try, one wins. `collect.py` argues from that.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from repository.creating import create
from repository.errors import DamagedObject, ObjectNotFound
from repository.layout import GENERATIONS, PACKS, generation_key
from repository.points import ObjectRef
from repository.records import RecordCodec
from repository.store import ObjectInfo, Store
from repository.tables import describe, open_table

_RecordT = TypeVar("_RecordT", bound="_Record")
_PLAN = "plan.json"
_OUTCOME = "outcome.json"
_DONE = "done.json"
_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("size_bytes", pa.uint64(), nullable=False),
    ]
)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Plan(_Record):
    """What a generation condemns."""

    planned_at: AwareDatetime
    condemned: ObjectRef
    """The list of objects that are to be deleted, unless something refers to them by then."""
    gone: ObjectRef
    """The list of everything that earlier generations deleted."""
    points: tuple[str, ...]
    """Ids of the restore points that the plan kept."""
    dropped: tuple[str, ...]
    """Ids of the forgotten restore points whose time to be brought back is over, and of lost ones."""
    discarded: tuple[str, ...] = ()
    """Names of condemned objects under quarantine that the operator has released."""


class Outcome(_Record):
    """How a generation ended."""

    decided_at: AwareDatetime
    is_sweep: bool = Field(alias="sweep")
    reason: str = ""
    swept: ObjectRef | None = None
    """The list of what is deleted."""
    points: tuple[str, ...] = ()
    """Ids of the restore points that were looked at before deciding."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation as it stands."""

    number: int
    plan: Plan
    outcome: Outcome | None
    is_done: bool

    @property
    def is_open(self) -> bool:
        """Nothing is decided yet."""
        return self.outcome is None

    @property
    def is_over(self) -> bool:
        """Nothing is left to do."""
        return self.outcome is not None and (self.is_done or not self.outcome.is_sweep)


class Generations:
    """The generations of one repository. Thread-safe."""

    def __init__(self, store: Store, records: RecordCodec) -> None:
        self._store = store
        self._records = records

    def newest_number(self) -> int:
        """The newest generation begun; 0 if there was none."""
        names = (info.key.removeprefix(GENERATIONS) for info in self._store.list(GENERATIONS))
        parts = (name.split("/") for name in names if name.endswith(f"/{_PLAN}"))
        return max((int(part[0]) for part in parts if part[0].isdigit()), default=0)

    def newest(self) -> Generation | None:
        """The newest generation, or None; raises DamagedObject."""
        number = self.newest_number()
        return self.read(number) if number else None

    def since(self, number: int) -> list[Generation]:
        """The generations that began after this one, oldest first."""
        return [self.read(later) for later in range(number + 1, self.newest_number() + 1)]

    def read(self, number: int) -> Generation:
        """One generation; raises DamagedObject or ObjectNotFound."""
        plan = self._model(number, _PLAN, Plan)
        if plan is None:
            raise ObjectNotFound(generation_key(number, _PLAN))
        outcome = self._model(number, _OUTCOME, Outcome)
        is_done = self._store.stat(generation_key(number, _DONE)) is not None
        return Generation(number, plan, outcome, is_done)

    def begin(self, number: int, plan: Plan) -> bool:
        """Publish the plan as this generation; False if another one was faster."""
        return self._create(number, _PLAN, plan.model_dump(mode="json"))

    def decide(self, number: int, outcome: Outcome) -> Outcome:
        """Try to make this the outcome; returns the one that holds."""
        if self._create(number, _OUTCOME, outcome.model_dump(mode="json", by_alias=True)):
            return outcome
        held = self._model(number, _OUTCOME, Outcome)
        if held is None:
            raise DamagedObject(generation_key(number, _OUTCOME), "it came and went")
        return held

    def cancel(self, number: int, reason: str, now: dt.datetime) -> Outcome:
        """Try to end the generation with nothing deleted; returns the outcome that holds."""
        return self.decide(number, Outcome(decided_at=now, sweep=False, reason=reason))

    def finish(self, number: int, now: dt.datetime) -> None:
        """Say that everything is deleted, and remove lists that newer ones contain."""
        self._create(number, _DONE, {"at": now.isoformat()})
        for info in list(self._store.list(GENERATIONS)):
            folder, _, name = info.key.removeprefix(GENERATIONS).partition("/")
            if name.endswith(".parquet") and folder < f"{number:010d}":
                self._store.delete(info.key)

    def put_list(self, number: int, objects: Iterable[ObjectInfo]) -> ObjectRef:
        """Store a list of objects beside a generation; durable on return."""
        listed = list(objects)
        table = pa.Table.from_arrays(
            [
                pa.array([info.key for info in listed], pa.string()),
                pa.array([info.size_bytes for info in listed], pa.uint64()),
            ],
            schema=_SCHEMA,
        )
        sink = io.BytesIO()
        options = {"compression": "zstd", "use_dictionary": False, "store_schema": False}
        with pq.ParquetWriter(sink, _SCHEMA, **options) as writer:
            writer.write_table(table)
            identity = self._records.keys.repository_id.hex
            describe(writer, {"kind": "list", "repository": identity})
        key = generation_key(number, f"{uuid.uuid4().hex}.parquet")
        stored = bytes(self._records.sealer.close_object(key, sink.getvalue()))
        create(self._store, key, stored)
        digest = hashlib.sha256(stored).hexdigest()
        return ObjectRef(key=key, size_bytes=len(stored), sha256=digest)

    def get_list(self, ref: ObjectRef) -> list[ObjectInfo]:
        """A list as stored; raises DamagedObject or ObjectNotFound."""
        stored = self._store.get(ref.key)
        if hashlib.sha256(stored).hexdigest() != ref.sha256:
            raise DamagedObject(ref.key, "its bytes do not match the digest in its generation")
        plain = self._records.sealer.open_object(ref.key, stored)
        file, _ = open_table(ref.key, "list", pa.BufferReader(plain), _SCHEMA)
        table = file.read(use_threads=False)
        names, sizes = table["name"].to_pylist(), table["size_bytes"].to_pylist()
        return [ObjectInfo(name, size) for name, size in zip(names, sizes, strict=True)]

    def check(self, key: str, stored: bytes) -> None:
        """Prove one of the records; raises DamagedObject or UnsupportedFormat."""
        self._records.decode(key, _kind(key.rpartition("/")[2]), stored)

    def newest_with(
        self, names_of: Callable[[Generation | None], set[str]]
    ) -> tuple[Generation | None, set[str]]:
        """The newest generation and what `gone_after` or `avoided_by` says of it.

        Its lists go when a newer generation is done; then the newer one is asked.
        """
        while True:
            newest = self.newest()
            try:
                return newest, names_of(newest)
            except ObjectNotFound:
                if newest is None or self.newest_number() == newest.number:
                    raise

    def gone_after(self, generation: Generation | None) -> set[str]:
        """Names of everything that was deleted, or decided to be, up to this generation."""
        if generation is None:
            return set()
        gone = {info.key for info in self.get_list(generation.plan.gone)}
        if generation.outcome and generation.outcome.swept:
            gone |= {info.key for info in self.get_list(generation.outcome.swept)}
        return gone

    def avoided_by(self, generation: Generation | None) -> set[str]:
        """Names that nothing new may refer to: all that is gone, and all that is condemned."""
        if generation is None:
            return set()
        refs = (generation.plan.gone, generation.plan.condemned)
        return {info.key for ref in refs for info in self.get_list(ref)}

    def _create(self, number: int, name: str, body: dict[str, Any]) -> bool:
        key = generation_key(number, name)
        return create(self._store, key, self._records.encode(key, _kind(name), body))

    def _model(self, number: int, name: str, model: type[_RecordT]) -> _RecordT | None:
        key = generation_key(number, name)
        try:
            body = self._records.decode(key, _kind(name), self._store.get(key))
            return model.model_validate(body)
        except ObjectNotFound:
            return None
        except ValidationError as error:
            raise DamagedObject(key, f"{error.error_count()} of its members cannot be") from error


def pack_ids(names: Iterable[str]) -> set[bytes]:
    """The ids of the packs among these object names."""
    return {bytes.fromhex(name.rpartition("/")[2]) for name in names if name.startswith(PACKS)}


def _kind(name: str) -> str:
    return f"gc-{name.removesuffix('.json')}"


def total_bytes(objects: Sequence[ObjectInfo]) -> int:
    """Sum of the sizes."""
    return sum(info.size_bytes for info in objects)
