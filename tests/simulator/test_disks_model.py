"""A model beside the disk store: random histories, with crashes, against plain bytes in memory."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from simulator.disks import DiskStore
from simulator.documents import Documents
from simulator.sparse import KiB, merge

UNIT = 16 * KiB
places = st.integers(0, 15).map(lambda n: n * UNIT)
lengths = st.integers(1, 3 * UNIT)


@dataclass
class Model:
    """One disk as it should be: live bytes, and the bytes of every frozen generation that is held."""

    live: bytearray | None
    frozen: dict[int, list[bytes]] = field(default_factory=dict)
    is_exposed: bool = False


class DiskStory(RuleBasedStateMachine):
    """Disks are written, frozen, cloned, exposed and deleted, and the store is reopened without a goodbye."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="disk-story-"))
        self.models: dict[str, Model] = {}
        self._count = itertools.count()
        self.store: DiskStore
        self.documents: Documents

    def _new_id(self) -> str:
        return f"disk-{next(self._count):03}"

    @initialize()
    def open_store(self) -> None:
        self.documents = Documents(self.root / "state.sqlite")
        self.store = DiskStore(self.root / "vdisks", self.documents, self._new_id)
        self.models[self.store.create(16 * UNIT)] = Model(bytearray(16 * UNIT))

    def teardown(self) -> None:
        self.documents.close()
        shutil.rmtree(self.root)

    def _pick(self, data: st.DataObject, *, needs_live: bool = True) -> tuple[str, Model]:
        able = [i for i, m in self.models.items() if m.live is not None or not needs_live]
        ext_id = data.draw(st.sampled_from(sorted(able)))
        return ext_id, self.models[ext_id]

    def _has_live(self) -> bool:
        return any(m.live is not None for m in self.models.values())

    @precondition(_has_live)
    @rule(data=st.data(), at=places, length=lengths, fill=st.integers(0, 255))
    def write(self, data: st.DataObject, at: int, length: int, fill: int) -> None:
        ext_id, model = self._pick(data)
        assert model.live is not None
        piece = bytes([fill]) * min(length, len(model.live) - at)
        if model.is_exposed:  # whoever holds the device writes without telling
            with self.store.live_path(ext_id).open("r+b") as device:
                device.seek(at)
                device.write(piece)
        else:
            self.store.write(ext_id, at, piece)
        model.live[at : at + len(piece)] = piece

    @precondition(_has_live)
    @rule(data=st.data(), at=places, length=lengths)
    def discard(self, data: st.DataObject, at: int, length: int) -> None:
        ext_id, model = self._pick(data)
        assert model.live is not None
        end = min(at + length, len(model.live))
        self.store.discard(ext_id, [(at, end)])
        model.live[at:end] = bytes(end - at)

    @precondition(_has_live)
    @rule(data=st.data(), at=places, fails=st.booleans())
    def use_a_tool(self, data: st.DataObject, at: int, fails: bool) -> None:
        ext_id, model = self._pick(data)
        assert model.live is not None
        if model.is_exposed:
            return
        try:
            with self.store.session(ext_id) as image:
                with image.open("r+b") as file:
                    file.seek(at)
                    file.write(b"tool")
                if fails:
                    raise KeyError
        except KeyError:
            return
        model.live[at : at + 4] = b"tool"

    @precondition(_has_live)
    @rule(data=st.data(), extra=st.integers(1, 2 * UNIT))
    def grow(self, data: st.DataObject, extra: int) -> None:
        ext_id, model = self._pick(data)
        assert model.live is not None
        self.store.grow(ext_id, len(model.live) + extra)
        model.live += bytes(extra)

    @precondition(_has_live)
    @rule(data=st.data())
    def freeze(self, data: st.DataObject) -> None:
        ext_id, model = self._pick(data)
        assert model.live is not None
        with self.store.hold([ext_id]):
            number = self.store.freeze(ext_id)
        model.frozen.setdefault(number, []).append(bytes(model.live))

    @precondition(lambda self: any(m.frozen for m in self.models.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        ext_id = data.draw(st.sampled_from(sorted(i for i, m in self.models.items() if m.frozen)))
        model = self.models[ext_id]
        number = data.draw(st.sampled_from(sorted(model.frozen)))
        self.store.release(ext_id, number)
        model.frozen[number].pop()
        if not model.frozen[number]:
            del model.frozen[number]
        self._forget(ext_id)

    @precondition(_has_live)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        ext_id, model = self._pick(data)
        self.store.drop_live(ext_id)
        model.live = None
        self._forget(ext_id)

    def _forget(self, ext_id: str) -> None:
        model = self.models[ext_id]
        if model.live is None and not model.frozen:
            del self.models[ext_id]

    @precondition(lambda self: 0 < len(self.models) < 5)
    @rule(data=st.data(), is_frozen=st.booleans())
    def clone(self, data: st.DataObject, is_frozen: bool) -> None:
        ext_id, model = self._pick(data, needs_live=False)
        if model.frozen and (is_frozen or model.live is None):
            number = data.draw(st.sampled_from(sorted(model.frozen)))
            copy = self.store.clone(ext_id, number)
            self.models[copy] = Model(bytearray(model.frozen[number][0]))
        elif model.live is not None:
            self.models[self.store.clone(ext_id)] = Model(bytearray(model.live))

    @precondition(_has_live)
    @rule(data=st.data())
    def expose(self, data: st.DataObject) -> None:
        ext_id, model = self._pick(data)
        self.store.expose(ext_id)
        model.is_exposed = True

    @rule()
    def crash(self) -> None:
        """Half-made files lie around, and a new store opens what the old one never closed."""
        (self.root / "vdisks" / "half.part").write_bytes(b"x")
        self.documents.close()
        self.documents = Documents(self.root / "state.sqlite")
        self.store = DiskStore(self.root / "vdisks", self.documents, self._new_id)

    @invariant()
    def bytes_are_what_they_should_be(self) -> None:
        for ext_id, model in self.models.items():
            if model.live is not None:
                assert self.store.live_path(ext_id).read_bytes() == bytes(model.live)
            for number, copies in model.frozen.items():
                assert all(self.store.frozen_path(ext_id, number).read_bytes() == c for c in copies)

    @invariant()
    def every_difference_is_told(self) -> None:
        for ext_id, model in self.models.items():
            for older, newer in itertools.combinations(sorted(model.frozen), 2):
                told = self.store.changed(ext_id, older, newer)
                old, new = model.frozen[older][0], model.frozen[newer][0]
                differing = [
                    at for at in range(0, len(new), KiB) if old[at : at + KiB] != new[at : at + KiB]
                ]
                missed = merge((at, at + KiB) for at in differing)
                assert all(any(s < end and e > start for s, e in told) for start, end in missed)
                rebuilt = bytearray(old.ljust(len(new), b"\0"))
                for start, end in told:
                    rebuilt[start:end] = new[start:end]
                assert bytes(rebuilt) == new

    @invariant()
    def no_file_is_left_over(self) -> None:
        expected = sum(len(m.frozen) for m in self.models.values())
        live = sum(m.live is not None for m in self.models.values())
        found = [p for p in (self.root / "vdisks").iterdir() if p.suffix == ".raw"]
        assert max(expected, live) <= len(found) <= expected + live


DiskStory.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestDiskStory = DiskStory.TestCase
