"""Listing, exporting and verifying need a repository alone, and say plainly what is wrong with it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cli.exit_codes import ExitCode
from repository import PointDraft, Repository

Start = Callable[[Sequence[str]], "subprocess.Popen[str]"]


@pytest.fixture
def configured(stored, monkeypatch: pytest.MonkeyPatch):
    """The stored repository as the configured one."""
    monkeypatch.setenv("AHVAULT_REPOSITORY_URL", str(stored.path))
    return stored


def test_points_lists_what_is_there(ahvault, configured) -> None:
    """A row per restore point, oldest first, whose shown time names the point to other commands."""
    listed = ahvault("points")
    assert listed.code == ExitCode.OK
    assert [line.split()[1] for line in listed.out.splitlines()[1:]] == ["db01", "web01", "db01"]
    shown = listed.out.splitlines()[3].split()[2]
    one = ahvault("points", f"db01@{shown}", "--json").document["points"]
    assert [point["created_at"] for point in one] == [shown]


def test_points_lists_disks_and_one_vm(ahvault, configured) -> None:
    """`--disks` names what `export` takes."""
    listed = ahvault("points", "web01", "--disks")
    assert "db01" not in listed.out
    assert "scsi.0" in listed.out
    assert "id-of-web01-scsi.0" in listed.out


def test_points_says_what_a_point_is_not(ahvault, configured) -> None:
    """What a restore point lacks (N3), and a consistency that was wanted and not reached (N1), are in the table."""
    with Repository.open(str(configured.path)) as repository:
        newest = repository.points("id-of-web01").points[-1]
        lack = "not in the restore point: volume group data: it asks for a CHAP secret"
        source = {"consistency_wanted": "application", "lacks": [lack]}
        members = newest.model_dump(exclude={"id", "key", "committed_at", "gc_generation"})
        with repository.write_session("honest") as session:
            session.commit(PointDraft.model_validate({**members, "source": source}))
    listed = ahvault("points", "web01")
    assert f"of web01: {lack}" in listed.out
    assert "crash (application wanted)" in listed.out
    assert ahvault("points", "web01", "--json").document["points"][-1]["lacks"] == [lack]


def test_points_shows_sound_points_beside_a_damaged_one(ahvault, configured) -> None:
    """A record that cannot be read is named, hides nothing, and changes the exit code."""
    newest = ahvault("points", "db01", "--json").document["points"][-1]
    record = next(path for path in configured.path.rglob("*") if newest["id"] in path.name)
    record.write_bytes(record.read_bytes()[:-10])
    listed = ahvault("points", "--json")
    assert listed.code == ExitCode.DAMAGE
    assert len(listed.document["points"]) == 2
    assert len(listed.document["damaged"]) == 1
    assert record.name in listed.err


def test_export_writes_the_bytes_that_were_stored(ahvault, configured, tmp_path: Path) -> None:
    """The file equals the disk byte for byte, has holes, and nothing else is left beside it."""
    target = tmp_path / "out" / "disk.raw"
    target.parent.mkdir()
    ended = ahvault("export", "db01", "scsi.0", str(target), "--json")
    assert ended.code == ExitCode.OK
    assert target.read_bytes() == configured.images["db01 scsi.0"]
    assert target.stat().st_blocks * 512 < target.stat().st_size
    assert list(target.parent.iterdir()) == [target]
    assert ended.document["size_bytes"] == target.stat().st_size


def test_export_of_an_older_point_gives_the_older_bytes(ahvault, configured) -> None:
    """A moment names the point, whatever came after it."""
    ahvault("export", "db01@2026-11-23T08", "scsi.0", "old.raw")
    assert Path("old.raw").read_bytes().endswith(b"old")


def test_export_leaves_a_file_in_the_way_alone(ahvault, configured) -> None:
    """An existing file is replaced only when told to, and then as a whole."""
    target = Path("disk.raw")
    target.write_text("precious")
    refused = ahvault("export", "web01", "scsi.0", "disk.raw")
    assert refused.code == ExitCode.USAGE
    assert "--force" in refused.err
    assert target.read_text() == "precious"
    assert ahvault("export", "web01", "scsi.0", "disk.raw", "--force").code == ExitCode.OK
    assert target.read_bytes() == configured.images["web01 scsi.0"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["export", "db1", "scsi.0", "x"], ExitCode.NOT_FOUND, "Did you mean db01"),
        (["export", "db01", "scsi.9", "x"], ExitCode.NOT_FOUND, "Its disks are: scsi.0, scsi.1"),
        (["export", "db01", "scsi.0", "no/such/x"], ExitCode.FAILED, "No such file or directory"),
        (["points", "nothing"], ExitCode.NOT_FOUND, "goes by that name"),
        (["verify", "nothing"], ExitCode.NOT_FOUND, "goes by that name"),
        (["verify", "--level", "deep"], ExitCode.USAGE, "is none of: records, presence"),
        (["verify", "web01", "--max-gib", "1"], ExitCode.USAGE, "not for restore points"),
        (["verify", "--level", "records", "--max-gib", "1"], ExitCode.USAGE, "reads no packs"),
        (["repo", "init", "--compression-level", "40"], ExitCode.USAGE, "less than or equal to 19"),
    ],
)
def test_a_wrong_name_is_one_sentence(ahvault, configured, arguments, code, said) -> None:
    """Every mistake ends with its own exit code and one line that says what to do."""
    ended = ahvault(*arguments)
    assert ended.code == code
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1
    assert "Traceback" not in ended.err
    assert ended.out == ""
    assert not Path("x").exists()


def test_errors_are_documents_too(ahvault, configured) -> None:
    """With `--json` a failure is the one document on stdout."""
    ended = ahvault("points", "db1", "--json")
    error = ended.document["error"]
    assert error["class"] == "PointUnknown"
    assert error["exit_code"] == ended.code == ExitCode.NOT_FOUND
    assert error["message"] in ended.err


def test_verify_of_a_sound_repository_is_clean(ahvault, configured) -> None:
    """All points, or those named, at every level."""
    assert ahvault("verify").code == ExitCode.OK
    named = ahvault("verify", "web01", "--level", "stored", "--json")
    assert named.document["is_clean"] is True
    assert named.document["points_checked"] == 1


def test_verify_names_a_flipped_bit(ahvault, configured) -> None:
    """The object, the restore points concerned and the exit code for damage."""
    pack = max(configured.path.rglob("*"), key=lambda path: path.is_file() * path.stat().st_size)
    spoilt = bytearray(pack.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(spoilt)
    ended = ahvault("verify")
    assert ended.code == ExitCode.DAMAGE
    assert pack.name in ended.out
    finding = ahvault("verify", "--json").document["findings"][0]
    assert finding["concerned"][0]["vm"] in ("db01", "web01")


def test_verify_in_turns_stays_red_until_mended(ahvault, configured) -> None:
    """A limit reads one pack per call and says the share proven; damage is told by every later call."""
    packs = [path for path in configured.path.joinpath("data").rglob("*") if path.is_file()]
    for number in range(len(packs)):
        covered = ahvault("verify", "--max-gib", "0", "--json").document["coverage"]
        assert covered["covered_packs"] == number + 1
    assert "100.0%" in ahvault("verify", "--coverage").out
    pack = packs[0]
    good = pack.read_bytes()
    pack.chmod(0o600)
    pack.write_bytes(good[:-1])
    assert ahvault("verify").code == ExitCode.DAMAGE
    for arguments in (["--level", "records"], ["--max-minutes", "0"], ["--coverage"]):
        ended = ahvault("verify", *arguments)
        assert ended.code == ExitCode.DAMAGE
        assert pack.name in ended.out
    pack.write_bytes(good)
    ended = ahvault("verify", "--every-days", "30")
    assert ended.code == ExitCode.OK
    assert "Mended" in ended.out


def test_a_damaged_disk_is_not_exported(ahvault, configured) -> None:
    """An export stops at the first wrong chunk and leaves no file that looks whole."""
    pack = max(configured.path.rglob("*"), key=lambda path: path.is_file() * path.stat().st_size)
    pack.chmod(0o600)
    pack.write_bytes(pack.read_bytes()[:100])
    codes = [
        ahvault("export", vm, "scsi.0", f"{vm}.raw", "--repository-url", str(configured.path)).code
        for vm in ("db01", "web01")
    ]
    assert ExitCode.DAMAGE in codes
    assert len(list(Path().glob("*01.raw"))) == codes.count(ExitCode.OK)
    assert not list(Path().glob(".*unfinished*"))


@pytest.mark.parametrize("command", [["points"], ["verify"], ["export", "a", "b", "c"]])
def test_a_place_without_a_repository_is_told(ahvault, tmp_path: Path, command) -> None:
    """An absent or foreign directory is not a repository, and is not touched."""
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "letter.txt").write_text("hello")
    for place in ("foreign", "absent"):
        ended = ahvault(*command, "--repository-url", str(tmp_path / place))
        assert ended.code == ExitCode.REPOSITORY
        assert "holds no repository" in ended.err
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["letter.txt"]
    assert not (tmp_path / "absent").exists()


def test_no_repository_configured_names_all_three_ways(ahvault) -> None:
    """The flag, the variable and the line of the file."""
    ended = ahvault("points")
    assert ended.code == ExitCode.USAGE
    for way in ("--repository-url", "AHVAULT_REPOSITORY_URL", "[repository]"):
        assert way in ended.err


def test_a_newer_format_is_refused(ahvault, configured) -> None:
    """A repository made by a newer ahvault is left alone."""
    description = configured.path / "repo.json"
    document = json.loads(description.read_text())
    assert "format" in json.dumps(document)
    changed = _with_newer_version(document)
    description.chmod(0o600)
    description.write_text(json.dumps(changed))
    ended = ahvault("points")
    assert ended.code in (ExitCode.REPOSITORY, ExitCode.DAMAGE)
    assert "Traceback" not in ended.err
    assert len(ended.err.splitlines()) == 1


def _with_newer_version(document: dict) -> dict:
    return {
        key: value + 1 if isinstance(value, int) and "version" in key else value
        for key, value in document.items()
    }


def test_init_refuses_a_place_that_is_taken(ahvault, configured) -> None:
    """Nothing that is there is touched."""
    before = sorted(configured.path.rglob("*"))
    ended = ahvault("repo", "init", str(configured.path))
    assert ended.code == ExitCode.REPOSITORY
    assert "already" in ended.err
    assert sorted(configured.path.rglob("*")) == before


def test_init_makes_what_points_opens(ahvault, tmp_path: Path) -> None:
    """The JSON of `repo init` names the repository that then lists as empty."""
    made = ahvault("repo", "init", str(tmp_path / "new"), "--json").document
    assert made["url"].endswith("new")
    listed = ahvault("points", "--repository-url", made["url"])
    assert listed.code == ExitCode.OK
    assert "no restore point yet" in listed.out


def test_a_full_disk_is_one_sentence(ahvault_process: Start, configured) -> None:
    """A target that takes no more bytes: the cause is said, no unfinished file stays."""

    def limit_file_size() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * 1024, 1024 * 1024))

    child = ahvault_process(["export", "db01", "scsi.0", "disk.raw"], preexec_fn=limit_file_size)
    _, err = child.communicate(timeout=60)
    assert child.returncode == ExitCode.FAILED
    assert "Traceback" not in err
    assert "too large" in err or "full" in err
    assert list(Path().glob("*disk.raw*")) == []


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, ExitCode.TERMINATED)],
)
def test_an_interrupted_export_leaves_nothing(
    ahvault_process: Start, configured, number: signal.Signals, code: ExitCode
) -> None:
    """Ctrl-C or SIGTERM in the middle: no half file, the right code, no traceback."""
    packs = [path for path in (configured.path / "data").rglob("*") if path.is_file()]
    for pack in packs:
        pack.unlink()
        os.mkfifo(pack)  # Reading a pack now blocks for ever, as a store that hangs would.
    child = ahvault_process(["export", "db01", "scsi.0", "disk.raw"])
    unfinished = f".disk.raw.unfinished-{child.pid}"
    deadline_s = time.monotonic() + 30
    while not Path(unfinished).exists() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    child.send_signal(number)
    time.sleep(0.3)
    for pack in packs:
        os.close(os.open(pack, os.O_RDWR | os.O_NONBLOCK))
    _, err = child.communicate(timeout=60)
    assert child.returncode == code
    assert "Traceback" not in err
    assert not Path("disk.raw").exists()
    assert not Path(unfinished).exists()


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A folder with passphrases and a key file."""
    (tmp_path / "right").write_text("correct horse battery staple\n")
    (tmp_path / "wrong").write_text("hunter2\n")
    (tmp_path / "key").write_bytes(bytes(range(32)))
    (tmp_path / "short").write_bytes(b"abc")
    return tmp_path


def test_an_encrypted_repository_opens_with_its_passphrase_alone(ahvault, secrets: Path) -> None:
    """Without the passphrase, or with another, it says so, and shows neither."""
    place = ["--repository-url", str(secrets / "sealed")]
    made = ahvault("repo", "init", "--encrypt", *place, "--repository-passphrase-file", "right")
    assert made.code == ExitCode.OK
    assert "encrypted" in made.out
    assert ahvault("points", *place, "--repository-passphrase-file", "right").code == ExitCode.OK
    for flags in ([], ["--repository-passphrase-file", "wrong"], ["--repository-key-file", "key"]):
        refused = ahvault("points", *place, *flags)
        assert refused.code == ExitCode.REPOSITORY
        assert "is encrypted" in refused.err
        assert len(refused.err.splitlines()) == 1
        assert "hunter2" not in refused.err
        assert "horse" not in refused.err


def test_a_configured_secret_is_never_ignored(ahvault, secrets: Path) -> None:
    """With a key file configured, `repo init` encrypts also without being told to."""
    place = ["--repository-url", str(secrets / "sealed"), "--repository-key-file", "key"]
    assert ahvault("repo", "init", *place, "--json").document["is_encrypted"] is True
    assert ahvault("verify", *place).code == ExitCode.OK


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--encrypt"], "--repository-passphrase-file"),
        (["--repository-key-file", "short"], "fewer than 32 bytes"),
        (["--repository-key-file", "none"], "cannot be read"),
        (["--repository-passphrase-file", "none"], "cannot be read"),
        (["--repository-key-file", "key", "--repository-passphrase-file", "right"], "not both"),
    ],
)
def test_a_repository_is_not_made_without_a_usable_secret(
    ahvault, secrets: Path, flags: list[str], said: str
) -> None:
    """Refused before anything is written."""
    ended = ahvault("repo", "init", str(secrets / "new"), *flags)
    assert ended.code == ExitCode.USAGE
    assert said in ended.err
    assert not (secrets / "new").exists()


def test_a_full_stdout_is_no_traceback(stored) -> None:
    """A result that cannot be written is said on stderr, also when it was to be a document."""
    for flags in ([], ["--json"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-c", "from cli.main import main; main()", "points", *flags],
                check=False,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                env={**os.environ, "AHVAULT_REPOSITORY_URL": str(stored.path)},
            )
        assert done.returncode == ExitCode.FAILED
        assert "the file system is full" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_reader_that_has_enough_ends_the_command_quietly(stored) -> None:
    """`ahvault points | head -1` says nothing about a broken pipe."""
    child = subprocess.Popen(
        [sys.executable, "-c", "from cli.main import main; main()", "points", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "AHVAULT_REPOSITORY_URL": str(stored.path)},
    )
    assert child.stdout is not None
    child.stdout.close()
    assert child.stderr is not None
    assert child.stderr.read() == ""
    child.stderr.close()
    assert child.wait(60) == 1
