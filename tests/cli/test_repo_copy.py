"""`repo copy` from the command line: to a second, encrypted repository, again, and with damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.exit_codes import ExitCode


@pytest.fixture
def second(ahvault, stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty, encrypted repository beside the configured one."""
    Path("phrase").write_text("the other place\n")
    url = str(tmp_path / "second")
    made = ahvault(
        "repo", "init", url, "--repository-passphrase-file", "phrase", "--compression-level", "1"
    )
    assert made.code == ExitCode.OK
    monkeypatch.setenv("AHVAULT_REPOSITORY_URL", str(stored.path))
    return url


SECRET = ("--target-passphrase-file", "phrase")


def test_a_copy_restores_without_the_original(ahvault, stored, second: str) -> None:
    """All points are copied; the copy exports the bytes of the original, which is gone."""
    done = ahvault("repo", "copy", str(stored.path), second, *SECRET, "--json")
    assert done.code == ExitCode.OK
    assert len(done.document["copied"]) == 3
    stored.path.rename(stored.path.with_name("gone"))
    place = ("--repository-url", second, "--repository-passphrase-file", "phrase")
    assert ahvault("export", "db01", "scsi.0", "copy.raw", *place).code == ExitCode.OK
    assert Path("copy.raw").read_bytes() == stored.images["db01 scsi.0"]
    assert ahvault("verify", *place).code == ExitCode.OK
    listed = ahvault("points", *place, "--json").document["points"]
    assert [each["kind"] for each in listed] == ["copy"] * 3
    originals = [each["point_id"] for each in done.document["copied"]]
    assert [each["copied_from"]["point_id"] for each in listed] == originals


def test_a_second_copy_does_nothing(ahvault, stored, second: str) -> None:
    """Named points only, then the rest; what is there is said to be there."""
    one = ahvault("repo", "copy", str(stored.path), second, "web01", *SECRET)
    assert one.code == ExitCode.OK
    assert "copied" in one.out
    rest = ahvault("repo", "copy", str(stored.path), second, *SECRET, "--json").document
    assert (len(rest["copied"]), len(rest["already_there"])) == (2, 1)
    again = ahvault("repo", "copy", str(stored.path), second, *SECRET)
    assert again.out.count("was there") == 3


def test_damage_in_the_source_is_named_and_the_rest_copied(ahvault, stored, second: str) -> None:
    """Exit code for damage, the object's name, and copies of what is whole."""
    pack = max(stored.path.rglob("*"), key=lambda path: path.is_file() * path.stat().st_size)
    pack.write_bytes(pack.read_bytes()[:200])
    done = ahvault("repo", "copy", str(stored.path), second, *SECRET)
    assert done.code == ExitCode.DAMAGE
    assert pack.name in done.out
    assert "copied" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["SRC", "SRC"], ExitCode.USAGE, "the same repository"),
        (["SRC", "DST"], ExitCode.REPOSITORY, "is encrypted"),
        (["SRC", "nowhere"], ExitCode.REPOSITORY, "holds no repository"),
        (["SRC", "DST", "db1", *SECRET], ExitCode.NOT_FOUND, "Did you mean db01"),
        (["SRC", "DST", "--target-storage-option", "x"], ExitCode.USAGE, "KEY=VALUE"),
    ],
)
def test_mistakes_are_one_sentence(ahvault, stored, second: str, arguments, code, said) -> None:
    """Nothing is copied."""
    places = {"SRC": str(stored.path), "DST": second}
    ended = ahvault("repo", "copy", *(places.get(each, each) for each in arguments))
    assert (ended.code, len(ended.err.splitlines())) == (code, 1), ended.err
    assert said in ended.err
