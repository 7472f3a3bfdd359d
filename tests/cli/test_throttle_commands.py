"""`throttle` from the command line, and commands that move data under a rule."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cli.exit_codes import ExitCode


@pytest.fixture(autouse=True)
def configured(stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AHVAULT_REPOSITORY_URL", str(stored.path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def test_rules_come_are_listed_and_go(ahvault) -> None:
    """Set, listed with the limit of this moment, replaced, removed; JSON says the same."""
    done = ahvault(
        "throttle",
        "set",
        "wan",
        "--between",
        "10.0.0.0/8",
        "--and",
        "public",
        "--limit",
        "100 Mbit/s",
    )
    assert done.code == ExitCode.OK
    assert "10.0.0.0/8 <-> public; at this moment: 100 Mbit/s" in done.out
    day = (
        "--times",
        "mon-sun 00:00-24:00",
        "--otherwise",
        "1 Gbit/s",
        "--time-zone",
        "Europe/Berlin",
    )
    assert (
        ahvault(
            "throttle", "set", "day", "--job", "nightly", "--limit", "8 Mbit/s", *day, "--restores"
        ).code
        == ExitCode.OK
    )
    listed = ahvault("throttle", "list").out
    assert "mon-sun 00:00-24:00 (Europe/Berlin)" in listed
    assert "1 Gbit/s" in listed
    assert ahvault("throttle", "set", "wan", "--limit", "1 MiB/s").code == ExitCode.OK
    rules = {each["name"]: each for each in ahvault("throttle", "list", "--json").document["rules"]}
    assert rules["wan"]["between"] is None
    assert rules["day"]["now"] == "8 Mbit/s"
    assert rules["day"]["restores"]
    assert ahvault("throttle", "remove", "wan").code == ExitCode.OK
    gone = ahvault("throttle", "remove", "wan")
    assert gone.code == ExitCode.NOT_FOUND
    assert "there are: day, public-addresses" in gone.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--limit", "100"), "limit: write a limit as 100 Mbit/s"),
        ((), "limit: is missing"),
        (("--limit", "8 MiB/s", "--encrypt"), "the built-in rule public-addresses alone"),
        (("--limit", "8 Mbit/s"), "a repository is limited in bytes"),
        (("--limit", "8 Mbit/s", "--between", "any"), "a path has two ends"),
        (
            ("--limit", "8 Mbit/s", "--job", "x", "--times", "noon"),
            "times: 'noon' is no range of the week",
        ),
        (
            ("--limit", "8 Mbit/s", "--job", "x", "--time-zone", "Mars"),
            "there is no time zone 'Mars'",
        ),
    ],
)
def test_a_bad_rule_is_refused_with_field_and_reason(
    ahvault, arguments: tuple[str, ...], said: str
) -> None:
    """Nothing is stored of it."""
    done = ahvault("throttle", "set", "wan", *arguments)
    assert done.code == ExitCode.USAGE
    assert said in done.err
    rules = ahvault("throttle", "list", "--json").document["rules"]
    assert [each["name"] for each in rules] == ["public-addresses"]


def test_what_would_hold_a_transfer_back(ahvault) -> None:
    """Both ends of the path and the rules, the lowest first; the place is said where the URL does not."""
    ahvault(
        "throttle",
        "set",
        "path",
        "--between",
        "127.0.0.1",
        "--and",
        "127.0.0.2",
        "--limit",
        "80 Mbit/s",
    )
    ahvault("throttle", "set", "store", "--limit", "1 MiB/s")
    shown = ahvault("throttle", "show", "--json").document
    assert shown == {
        "refused": None,
        "path": [],
        "limits": [{"rule": "store", "limit": "1 MiB/s", "bytes_s": 2**20}],
    }
    assert ahvault("throttle", "place", "127.0.0.2").code == ExitCode.OK
    shown = ahvault("throttle", "show", "--json").document
    assert shown["path"] == [["127.0.0.1", "127.0.0.2"]]
    assert [each["rule"] for each in shown["limits"]] == ["store", "path"]
    assert "From here, 127.0.0.1, to the repository, 127.0.0.2." in ahvault("throttle", "show").out
    assert ahvault("throttle", "place", "--forget").code == ExitCode.OK
    assert ahvault("throttle", "show", "--json").document["path"] == []
    assert ahvault("throttle", "place", "nowhere").code == ExitCode.USAGE
    assert ahvault("throttle", "place").code == ExitCode.USAGE


def test_a_copy_keeps_to_the_rules_of_both_repositories(ahvault, stored, tmp_path: Path) -> None:
    """What is fetched from the source counts there, what is sent to the target counts there."""
    for side in ("source", "target"):
        second = str(tmp_path / f"second-{side}")
        assert ahvault("repo", "init", second).code == ExitCode.OK
        limited = str(stored.path) if side == "source" else second
        place = ("--repository-url", limited)
        ahvault("throttle", "set", "store", "--limit", "1 MiB/s", *place)
        start_s = time.monotonic()
        done = ahvault("repo", "copy", str(stored.path), second, "db01", "--json")
        took_s = time.monotonic() - start_s
        assert done.code == ExitCode.OK
        stored_bytes = done.document["copied"][0]["stored_bytes"]
        assert took_s >= 0.8 * stored_bytes / 2**20
        ahvault("throttle", "remove", "store", *place)


def test_an_export_is_exempt_unless_the_rule_says_otherwise(ahvault, stored) -> None:
    """Q6, also for what needs neither cluster nor server."""

    def export_s(name: str) -> float:
        start_s = time.monotonic()
        assert ahvault("export", "db01", "scsi.0", name).code == ExitCode.OK
        return time.monotonic() - start_s

    ahvault("throttle", "set", "store", "--limit", "512 KiB/s")
    free_s = export_s("free.raw")
    ahvault("throttle", "set", "store", "--limit", "512 KiB/s", "--restores")
    limited_s = export_s("limited.raw")
    assert (
        Path("free.raw").read_bytes()
        == Path("limited.raw").read_bytes()
        == stored.images["db01 scsi.0"]
    )
    assert limited_s > free_s + 1


def test_the_built_in_rule_is_listed_adjusted_and_stays(ahvault) -> None:
    """Q8: refused data is refused again once the rule is as it was; it cannot be removed."""
    listed = ahvault("throttle", "list").out
    assert "public-addresses" in listed
    assert "refused" in listed
    removed = ahvault("throttle", "remove", "public-addresses")
    assert removed.code == ExitCode.USAGE
    assert "cannot be removed, only adjusted" in removed.err
    done = ahvault("throttle", "set", "public-addresses", "--no-encrypt", "--limit", "8 Mbit/s")
    assert "any <-> public; at this moment: 8 Mbit/s; unencrypted data is free." in done.out
    (rule,) = ahvault("throttle", "list", "--json").document["rules"]
    assert (rule["encrypt"], rule["limit"]) == (False, "8 Mbit/s")
    assert "unencrypted data is refused." in ahvault("throttle", "set", "public-addresses").out


def test_nothing_is_copied_or_exported_in_the_clear_over_public_addresses(
    ahvault, stored, tmp_path: Path
) -> None:
    """Q8, both ways; the refusal is shown beforehand; encrypted or adjusted, the data moves."""
    second = str(tmp_path / "second")
    place = ("--repository-url", second)
    assert ahvault("repo", "init", second).code == ExitCode.OK
    assert ahvault("throttle", "place", "8.8.8.8", *place).code == ExitCode.OK
    refused = ahvault("repo", "copy", str(stored.path), second, "db01")
    assert refused.code == ExitCode.USAGE
    assert "8.8.8.8" in refused.err
    assert ahvault("points", "--json", *place).document["points"] == []
    assert "No data moves" in ahvault("throttle", "show", *place).out
    assert ahvault("throttle", "set", "public-addresses", "--no-encrypt", *place).code == 0
    assert ahvault("repo", "copy", str(stored.path), second, "db01").code == ExitCode.OK
    assert ahvault("throttle", "show", "--json", *place).document["refused"] is None

    ahvault("throttle", "place", "8.8.8.8")
    assert ahvault("export", "db01", "scsi.0", "db01.raw").code == ExitCode.USAGE
    assert list(Path().glob("*db01.raw*")) == []
    Path("phrase").write_text("correct horse battery staple\n")
    third = str(tmp_path / "third")
    secret = ("--repository-passphrase-file", "phrase")
    assert ahvault("repo", "init", third, *secret).code == ExitCode.OK
    ahvault("throttle", "place", "8.8.8.8", "--repository-url", third, *secret)
    ahvault("throttle", "place", "--forget")
    target = ("--target-passphrase-file", "phrase")
    assert ahvault("repo", "copy", str(stored.path), third, "db01", *target).code == ExitCode.OK
