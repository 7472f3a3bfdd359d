"""Keys from the command line: every way in works, none shows, and a whole backup is restored encrypted."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from cli.exit_codes import ExitCode

PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def sealed(ahvault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An encrypted, configured repository, its passphrase in the environment."""
    monkeypatch.setenv("AHVAULT_REPOSITORY_URL", str(tmp_path / "sealed"))
    monkeypatch.setenv("AHVAULT_REPOSITORY_PASSPHRASE", PASSPHRASE)
    made = ahvault("repo", "init", "--encrypt", "--json")
    assert made.document["is_encrypted"] is True
    return tmp_path / "sealed"


def test_keys_are_added_listed_and_removed(ahvault, sealed: Path, monkeypatch) -> None:
    """A key file that is made, a second passphrase; each opens, is listed, and the last one stays."""
    added = ahvault("repo", "keys", "add", "--new-key-file", "machine.key", "--label", "nightly")
    assert added.code == ExitCode.OK
    assert Path("machine.key").stat().st_mode & 0o777 == 0o600
    Path("second").write_text("another passphrase\n")
    assert ahvault("repo", "keys", "add", "--new-passphrase-file", "second").code == ExitCode.OK
    keys = {key["label"]: key for key in ahvault("repo", "keys", "list", "--json").document["keys"]}
    assert {label: key["opened_by"] for label, key in keys.items()} == {
        "first": "passphrase",
        "nightly": "key file",
        "passphrase": "passphrase",
    }
    monkeypatch.delenv("AHVAULT_REPOSITORY_PASSPHRASE")
    machine = ("--repository-key-file", "machine.key")
    assert ahvault("points", *machine).code == ExitCode.OK
    assert ahvault("points", "--repository-passphrase-file", "second").code == ExitCode.OK
    for label in ("first", "passphrase"):
        assert ahvault("repo", "keys", "remove", keys[label]["id"][:8], *machine).code == 0
    assert ahvault("points", "--repository-passphrase-file", "second").code == ExitCode.REPOSITORY
    last = ahvault("repo", "keys", "remove", keys["nightly"]["id"], *machine)
    assert last.code == ExitCode.USAGE
    assert "the only one" in last.err
    assert ahvault("points", *machine).code == ExitCode.OK


@pytest.mark.parametrize("flag", [(), ("--json",)])
def test_a_recovery_key_is_shown_once_and_works(ahvault, sealed: Path, monkeypatch, flag) -> None:
    """It stands on stderr alone, opens the repository as passphrase and as key file, and is stored nowhere."""
    made = ahvault("repo", "keys", "add", "--recovery-key", *flag)
    (text,) = [word for word in made.err.split() if word.startswith("AHVR-")]
    assert "AHVR-" not in made.out
    assert text not in ahvault("repo", "keys", "list").out
    for path in sealed.rglob("*"):
        assert path.is_dir() or text.encode() not in path.read_bytes()
    monkeypatch.setenv("AHVAULT_REPOSITORY_PASSPHRASE", text.lower())
    assert ahvault("points").code == ExitCode.OK
    monkeypatch.delenv("AHVAULT_REPOSITORY_PASSPHRASE")
    Path("paper").write_text(f"{text}\n")
    assert ahvault("points", "--repository-key-file", "paper").code == ExitCode.OK


def test_a_passphrase_is_changed(ahvault, sealed: Path, monkeypatch) -> None:
    """The old one opens nothing afterwards; the new one does."""
    Path("new").write_text("tr0ub4dor\n")
    assert ahvault("repo", "keys", "change", "--new-passphrase-file", "new").code == ExitCode.OK
    refused = ahvault("points", "--json")
    assert refused.code == ExitCode.REPOSITORY
    assert refused.document["error"]["class"] == "KeyProblem"
    monkeypatch.setenv("AHVAULT_REPOSITORY_PASSPHRASE", "tr0ub4dor")
    assert ahvault("points").code == ExitCode.OK


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["remove", "ffffffff0"], ExitCode.NOT_FOUND, "No single key"),
        (["add"], ExitCode.USAGE, "--new-passphrase-file"),
        (["change", "--new-passphrase-file", "none"], ExitCode.USAGE, "cannot be read"),
        (["add", "--new-passphrase-file", "a", "--new-key-file", "b"], ExitCode.USAGE, "not two"),
    ],
)
def test_mistakes_are_one_sentence(ahvault, sealed: Path, arguments, code, said) -> None:
    """Nothing is changed, no secret is told."""
    ended = ahvault("repo", "keys", *arguments)
    assert (ended.code, len(ended.err.splitlines())) == (code, 1)
    assert said in ended.err
    assert "horse" not in ended.err
    assert len(ahvault("repo", "keys", "list", "--json").document["keys"]) == 1


def test_a_repository_without_encryption_has_no_keys(ahvault, tmp_path: Path) -> None:
    """Said so; nothing is added."""
    place = ("--repository-url", str(tmp_path / "plain"))
    ahvault("repo", "init", *place)
    ended = ahvault("repo", "keys", "add", "--recovery-key", *place)
    assert ended.code == ExitCode.USAGE
    assert "is not encrypted" in ended.err
    assert "AHVR-" not in ended.err


def answer(arguments: list[str], *answers: str) -> tuple[int, str, str]:
    """Run the real command at a terminal of its own and answer its prompts."""
    terminal, inside = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", "from cli.main import main; main()", *arguments],
        stdin=inside,
        stdout=subprocess.PIPE,
        stderr=inside,
        start_new_session=True,
    )
    os.close(inside)
    shown = b""
    waiting = list(answers)
    while True:
        try:
            piece = os.read(terminal, 1024)
        except OSError:
            break
        if not piece:
            break
        shown += piece
        if waiting and piece.rstrip().endswith(b":"):
            os.write(terminal, waiting.pop(0).encode() + b"\n")
    out = child.communicate(timeout=60)[0].decode()
    os.close(terminal)
    return child.returncode, out, shown.decode()


def test_a_terminal_is_asked_and_shows_nothing(tmp_path: Path) -> None:
    """`init --encrypt` asks twice, `points` once; what is typed is never echoed; a mismatch changes nothing."""
    place = ["--repository-url", str(tmp_path / "asked")]
    code, _, shown = answer(["repo", "init", "--encrypt", *place], "one", "other")
    assert code == ExitCode.USAGE
    assert "differ" in shown
    assert not (tmp_path / "asked").exists()
    code, out, shown = answer(["repo", "init", "--encrypt", *place], "typed-words", "typed-words")
    assert code == ExitCode.OK, shown
    assert "typed-words" not in out + shown
    code, _, shown = answer(["points", *place], "typed-words")
    assert code == ExitCode.OK, shown
    assert "typed-words" not in shown
    code, _, shown = answer(["points", *place], "wrong-words")
    assert code == ExitCode.REPOSITORY
    assert "wrong-words" not in shown
