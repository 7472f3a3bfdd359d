"""Makes the golden repositories: `python -m tests.data.make_golden FOLDER [NAME]...`.

Later versions must read those that are committed beside this file, so they are never made anew in
place: a new format, or something that format 1 can hold and they do not show, gets a folder of its
own, made by this script. Names and keys are random, so no two runs give the same bytes.

    plain       bases, deltas, zero chunks, shared and short chunks, growth, a tomb
    encrypted   the same, sealed, opened by a passphrase or a key file
    collected   the same after collection: chunks that moved, a quarantine that healed, a point given
                up, a hold, a session report, a ledger, and a second generation that waits
    copied      copies of the points of `collected`, encrypted, and collected in its turn
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from repository import (
    CollectSettings,
    CollectStage,
    DiskRecord,
    DiskSpec,
    Extent,
    FileSource,
    KeyFile,
    Passphrase,
    PointDraft,
    Repository,
    RepositoryOptions,
    RestorePoint,
    Secret,
    copy_points,
)

CHUNK = 64 * 1024
PASSPHRASE = "korrekt pferd bätterie"
KEY_FILE_BYTES = bytes(range(64))
AT_ONCE = CollectSettings(undelete_hours=0, grace_hours=0, rewrite_dead_percent=1)
STARTED_AT = dt.datetime(2026, 11, 23, 1, 0, tzinfo=dt.UTC)


class Golden:
    """One repository being made, and what its disks must restore to."""

    def __init__(self, root: Path, secret: Secret | None) -> None:
        options = RepositoryOptions(chunk_size_bytes=CHUNK, pack_target_bytes=4 * CHUNK)
        self.root = root
        self._scratch = root.with_suffix(".disk")
        self.repository = Repository.create(str(root), options=options, secret=secret)
        self.expected: dict[str, dict[str, str]] = {}

    def point(
        self,
        vm: str,
        hour: int,
        disks: Sequence[tuple[str, bytes, Sequence[Extent], DiskRecord | None]],
    ) -> RestorePoint:
        """Commit a restore point of disks given as id, content, extents and base."""
        moment = STARTED_AT + dt.timedelta(hours=hour)
        with self.repository.write_session(f"golden-{vm}-{hour}") as session:
            records = []
            for disk_id, content, extents, base in disks:
                self._scratch.write_bytes(content)
                with FileSource(self._scratch) as source:
                    spec = DiskSpec(disk_id=disk_id, size_bytes=len(content), label="scsi.0")
                    records.append(
                        session.write_disk(spec, source, extents, base, read_method="golden")
                    )
            self._scratch.unlink()
            point = session.commit(
                PointDraft(
                    vm_id=f"vm/{vm}",
                    vm_name=vm,
                    job="golden",
                    session_id=f"golden-{vm}-{hour}",
                    session_started_at=moment,
                    created_at=moment,
                    consistency="crash",
                    disks=tuple(records),
                )
            )
        self.expected[point.id] = {
            disk_id: hashlib.sha256(content).hexdigest() for disk_id, content, _, _ in disks
        }
        return point

    def finish(self) -> None:
        """Close it and write what its disks must restore to beside it."""
        self.repository.close()
        text = json.dumps(self.expected, indent=2, sort_keys=True)
        self.root.with_suffix(".expected.json").write_text(f"{text}\n", encoding="ascii")


def make(root: Path, secret: Secret | None) -> None:
    """A repository with bases, deltas, zero chunks, shared and short chunks, growth and a tomb."""
    golden = filled(root, secret)
    if isinstance(secret, Passphrase):
        golden.repository.add_secret(KeyFile(KEY_FILE_BYTES), "key file")
    golden.finish()


def make_collected(root: Path) -> None:
    """A repository whose packs are no more where its maps say."""
    golden = filled(root, None)
    repository = golden.repository
    oldest = repository.points("vm/web01").points[0]
    repository.hold(repository.points("vm/web01").points[1], "shows a hold")
    repository.save_report("golden-web01-0", {"shows": "a report"})
    noise = random.Random(8).randbytes(6 * CHUNK)
    whole = [Extent(0, len(noise))]
    mail = golden.point("mail01", 2, [("disk-m", noise, whole, None)])
    spoil(golden, mail, chunk=2)
    repository.repair()
    golden.point("mail01", 26, [("disk-m", noise, whole, None)])  # heals
    repository.forget(oldest, reason="so that its chunks are dead")
    assert repository.collect(AT_ONCE).rewritten_packs
    lost = golden.point("mail01", 50, [("disk-l", noise[: 2 * CHUNK], whole[:0], None)])
    record = root / lost.key
    record.chmod(0o600)
    record.write_bytes(record.read_bytes()[:-9])
    golden.repository = repository = Repository.open(str(root))
    repository.give_up([lost.id], "shows a point that was given up", dry_run=False)
    for gone in (oldest, lost):
        del golden.expected[gone.id]
    repository.forget(repository.points("vm/mail01").points[1], reason="shows a plan that waits")
    waiting = repository.collect(CollectSettings(undelete_hours=0))
    assert waiting.stage is CollectStage.PLANNED
    repository.undelete(repository.forgotten("vm/mail01")[0].point)
    repository.forget(repository.points("vm/db01").points[0], reason="shows a plan that waits")
    assert repository.collect(CollectSettings(undelete_hours=0)).stage is CollectStage.PLANNED
    del golden.expected[repository.forgotten("vm/db01")[0].point.id]
    assert repository.verify().is_clean
    golden.finish()


def make_copied(root: Path, source: Path) -> None:
    """Copies of the points of another repository, in an encrypted one that was collected, too."""
    golden = Golden(root, Passphrase(PASSPHRASE, scrypt_n=2**4))
    expected = json.loads(source.with_suffix(".expected.json").read_text())
    with Repository.open(str(source)) as origin:
        for points in (origin.points("vm/web01").points, origin.points("vm/mail01").points):
            report = copy_points(origin, golden.repository, points, session_id="golden-copy")
            golden.expected |= {each.copy.id: expected[each.point.id] for each in report.copied}
    noise = bytearray(random.Random(9).randbytes(8 * CHUNK))
    whole = [Extent(0, len(noise))]
    old = golden.point("own01", 3, [("disk-o", bytes(noise), whole, None)])
    for chunk in range(0, 8, 2):
        noise[chunk * CHUNK] ^= 1
    golden.point("own01", 27, [("disk-o", bytes(noise), whole, old.disks[0])])
    golden.repository.forget(old, reason="so that its chunks are dead")
    assert golden.repository.collect(AT_ONCE).rewritten_packs
    del golden.expected[old.id]
    assert golden.repository.verify().is_clean
    golden.finish()


def spoil(golden: Golden, point: RestorePoint, *, chunk: int) -> None:
    """Flip a bit in the stored bytes of one chunk of the first disk."""
    place = golden.repository.open_disk(point, point.disks[0].disk_id)._window(0)[chunk]
    name = place["pack"].tobytes().hex()
    pack = golden.root / "data" / name[:2] / name
    stored = bytearray(pack.read_bytes())
    stored[int(place["offset"]) + 100] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(stored)


def filled(root: Path, secret: Secret | None) -> Golden:
    """A repository with what every golden one begins with."""
    golden = Golden(root, secret)
    noise = random.Random(7).randbytes(2 * CHUNK)
    text = b"".join(b"line %d of a file that compresses\n" % number for number in range(9000))
    system = bytearray(noise + bytes(20 * CHUNK) + text + bytes(3 * CHUNK) + noise[:CHUNK] + b"end")
    whole = [Extent(0, len(system))]
    first = golden.point(
        "web01", 0, [("disk-a", bytes(system), whole, None), ("tiny", b"x", [Extent(0, 1)], None)]
    )
    base = first.disks[0]
    system[CHUNK : CHUNK + 5] = b"delta"
    system[30 * CHUNK : 31 * CHUNK] = bytes(CHUNK)
    changes = [Extent(CHUNK, CHUNK + 5), Extent(30 * CHUNK, 31 * CHUNK)]
    second = golden.point("web01", 24, [("disk-a", bytes(system), changes, base)])
    system += text[:CHUNK]
    golden.point("web01", 48, [("disk-a", bytes(system), [], second.disks[0])])
    golden.point("db01", 1, [("disk-b", noise + text, [Extent(0, len(noise + text))], None)])
    dropped = golden.point("db01", 25, [("disk-b", text, [Extent(0, len(text))], None)])
    golden.repository.forget(dropped, reason="shows a tomb")
    del golden.expected[dropped.id]
    return golden


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    makers = {
        "plain": lambda: make(folder / "plain", None),
        "encrypted": lambda: make(folder / "encrypted", Passphrase(PASSPHRASE, scrypt_n=2**4)),
        "collected": lambda: make_collected(folder / "collected"),
        "copied": lambda: make_copied(folder / "copied", folder / "collected"),
    }
    for name in sys.argv[2:] or makers:
        makers[name]()
