"""What can go wrong on the command line itself, as types.

CliError
├── ConfigInvalid      a setting is unknown or has a value that cannot be used
├── SettingMissing     the command needs a setting that nobody gave
├── WorkersMissing     the command moves disks, and no worker VM is configured
├── PointUnknown       no restore point goes by that name
├── PointAmbiguous     more than one does
├── DiskUnknown        the restore point has no such disk
├── BlockUnknown       the Prefect server has no notification block of that name
├── JobUnknown         no job of that name has run
├── KeyUnknown         no single key of the repository goes by that id
├── RuleUnknown        no throttle rule goes by that name
├── PassphraseMismatch the new passphrase was not typed the same twice
├── FileInTheWay       the file to write exists already
├── PrefectUnavailable neither a Prefect server nor the embedded one answers
└── DemoFailed         a step or a comparison of the demo did not hold
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class CliError(Exception):
    """Root of what `cli` raises; every message is for the operator."""


class ConfigInvalid(CliError):
    """A setting that cannot be used. `place` says where it was read: a flag, a variable, a file."""

    def __init__(self, place: str, setting: str, reason: str) -> None:
        self.place, self.setting, self.reason = place, setting, reason
        subject = f"{place}: {setting}" if setting else place
        super().__init__(f"{subject}: {reason}")


class SettingMissing(CliError):
    """A needed setting that is nowhere. `section` and `name` are as in the file."""

    def __init__(self, section: str, name: str, purpose: str) -> None:
        self.section, self.name, self.purpose = section, name, purpose
        flag = f"--{section}-{name}".replace("_", "-")
        super().__init__(
            f"{purpose}. Give {flag}, set AHVAULT_{section.upper()}_{name.upper()}, "
            f"or write `{name}` under [{section}] in ahvault.toml."
        )


class WorkersMissing(CliError):
    """No worker is configured."""

    def __init__(self) -> None:
        super().__init__(
            "No worker VM is configured, and one has to move the data. Give --worker VM, set "
            "AHVAULT_WORKERS, or write a [[workers]] table with `vm` in ahvault.toml."
        )


class PointUnknown(CliError):
    """No restore point goes by `reference`. `near` holds names that look like it."""

    def __init__(self, reference: str, reason: str, near: Sequence[str] = ()) -> None:
        self.reference, self.reason, self.near = reference, reason, tuple(near)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        super().__init__(
            f"No restore point {reference!r}: {reason}.{hint} "
            "`ahvault points` lists what the repository holds."
        )


class PointAmbiguous(CliError):
    """`reference` fits several restore points."""

    def __init__(self, reference: str, candidates: Sequence[str]) -> None:
        self.reference, self.candidates = reference, tuple(candidates)
        shown = ", ".join(candidates[:5]) + (", ..." if len(candidates) > 5 else "")
        super().__init__(
            f"{reference!r} fits {len(candidates)} restore points: {shown}. Name one of them."
        )


class SessionUnknown(CliError):
    """No session, or more than one, has an id that starts with `which`."""

    def __init__(self, which: str, *, matches: int) -> None:
        self.which, self.matches = which, matches
        found = "No session has" if matches == 0 else f"{matches} sessions have"
        super().__init__(
            f"{found} an id that starts with {which!r}. `ahvault sessions` lists them."
        )


class DiskUnknown(CliError):
    """The restore point has no disk `disk`, or more than one that fits."""

    def __init__(self, disk: str, point: str, known: Sequence[str]) -> None:
        self.disk, self.point, self.known = disk, point, tuple(known)
        super().__init__(
            f"Restore point {point} has no single disk {disk!r}. Its disks are: {', '.join(known)}."
        )


class BlockUnknown(CliError):
    """The Prefect server has no block `slug`, written `TYPE/NAME`."""

    def __init__(self, slug: str) -> None:
        self.slug = slug
        super().__init__(
            f"The Prefect server has no block {slug!r}. `prefect block ls` lists them; the Blocks page "
            "of its UI makes one."
        )


class JobUnknown(CliError):
    """The repository knows no job `name`."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name, self.known = name, tuple(known)
        there = f"There are: {', '.join(known)}." if known else "No job has run yet."
        super().__init__(f"No job {name!r} is known to the repository. {there}")


class KeyUnknown(CliError):
    """No key, or more than one, has an id that starts with `start`."""

    def __init__(self, start: str, known: Sequence[str]) -> None:
        self.start, self.known = start, tuple(known)
        super().__init__(f"No single key {start!r}. There are: {', '.join(known)}.")


class PassphraseMismatch(CliError):
    """Two different passphrases were typed; neither is told."""

    def __init__(self) -> None:
        super().__init__("The passphrases differ. Nothing was changed; run the command again.")


class FileInTheWay(CliError):
    """The file to write is there already."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(f"{path} exists already. Name another file, or add --force to replace it.")


class PrefectUnavailable(CliError):
    """No Prefect server answers. `url` is that of the configured one, `None` for the embedded."""

    def __init__(self, url: str | None, reason: str) -> None:
        self.url, self.reason = url, reason
        super().__init__(
            f"The Prefect server at {url} does not answer: {reason}. Start it, or unset "
            "PREFECT_API_URL to use the embedded one."
            if url
            else f"Prefect's embedded server did not start: {reason}. Run the command again; "
            "--verbose shows more."
        )


class DemoFailed(CliError):
    """A step of the demo, or one of its comparisons, did not hold."""

    def __init__(self, step: str, reason: str) -> None:
        self.step, self.reason = step, reason
        super().__init__(f"The demo failed while it was to {step}: {reason}")


class RuleUnknown(CliError):
    """There is no throttle rule of that name."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name = name
        there = f"there are: {', '.join(known)}" if known else "there are none"
        super().__init__(f"There is no throttle rule {name!r}; {there}.")


class WorkerUnknown(CliError):
    """No worker `name` is configured, or not in the file at `place`."""

    def __init__(self, name: str, near: Sequence[str], *, place: str | None = None) -> None:
        self.name, self.near, self.place = name, tuple(near), place
        there = f" There are: {', '.join(near)}." if near else ""
        where = f" in {place}; it comes from a flag or the environment" if place else ""
        super().__init__(
            f"No worker {name!r} is configured{where}.{there} "
            "`ahvault workers list` lists them, `ahvault workers add` adds one."
        )


class WorkerFailed(CliError):
    """A worker that was just made cannot be used, and was removed again."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(
            f"Worker {name} was made and cannot be used, so it was removed again: {reason} "
            "Its console in Prism shows what its first boot does; --boot-timeout-s gives it more time."
        )
