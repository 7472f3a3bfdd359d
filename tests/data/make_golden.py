"""Makes the golden repositories: `python -m tests.data.make_golden FOLDER`.

Later versions must read those that are committed beside this file, so they are never made anew in
place: a new format, or something that format 1 can hold and they do not show, gets a folder of its
own, made by this script. Names and keys are random, so no two runs give the same bytes.
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
)

CHUNK = 64 * 1024
PASSPHRASE = "korrekt pferd bätterie"
KEY_FILE_BYTES = bytes(range(64))
STARTED_AT = dt.datetime(2026, 11, 23, 1, 0, tzinfo=dt.UTC)


class Golden:
    """One repository being made, and what its disks must restore to."""

    def __init__(self, root: Path, secret: Secret | None) -> None:
        options = RepositoryOptions(chunk_size_bytes=CHUNK, pack_target_bytes=4 * CHUNK)
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


def make(root: Path, secret: Secret | None) -> None:
    """A repository with bases, deltas, zero chunks, shared and short chunks, growth and a tomb."""
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
    if isinstance(secret, Passphrase):
        golden.repository.add_secret(KeyFile(KEY_FILE_BYTES), "key file")
    golden.repository.close()
    text_of_expected = json.dumps(golden.expected, indent=2, sort_keys=True)
    root.with_suffix(".expected.json").write_text(f"{text_of_expected}\n", encoding="ascii")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    make(folder / "plain", None)
    make(folder / "encrypted", Passphrase(PASSPHRASE, scrypt_n=2**4))
