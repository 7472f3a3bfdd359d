"""Secrets from a person at a terminal, and key files made for one. Never echoed, never a flag."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cli.errors import PassphraseMismatch
from cli.output import say

if TYPE_CHECKING:
    from repository import Secret

_NEW_KEY_FILE_MODE = 0o600


def can_ask() -> bool:
    """Whether a person is there to be asked."""
    return sys.stdin.isatty()


def ask_passphrase(url: str) -> Secret:
    """The passphrase, or the recovery key, of a repository; raises `InvalidInput` for none."""
    from repository import read_passphrase

    return read_passphrase(getpass.getpass(f"Passphrase or recovery key of {url}: "))


def ask_new_passphrase() -> Secret:
    """A new passphrase, typed twice; raises `PassphraseMismatch`, or `InvalidInput` for none."""
    from repository import Passphrase

    text = getpass.getpass("New passphrase: ")
    if getpass.getpass("The same again: ") != text:
        raise PassphraseMismatch
    return Passphrase(text)


def make_key_file(path: Path) -> None:
    """A new key file that only its owner can read; durable on return. FileExistsError if there is one."""
    from repository import KeyFile

    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, _NEW_KEY_FILE_MODE), "wb") as file:
        file.write(KeyFile.generate().content)
        file.flush()
        os.fsync(file.fileno())
    say(f"Made key file {path}. Keep a copy of it elsewhere: without it nobody reads the backups.")
