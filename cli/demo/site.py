"""Where the demo happens: a directory, a simulator as a child process, a settings file for both."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit

from cli.config import FILE_NAME, Settings, load_settings
from cli.errors import ConfigInvalid, DemoFailed
from cli.options import CommonOptions

READY_S_MAX = 180.0
STOP_S_MAX = 15.0


@dataclass(frozen=True, slots=True)
class Site:
    """A running demo site. `facts` is what the simulator said of itself when it was ready."""

    folder: Path
    facts: dict[str, Any]
    simulator: subprocess.Popen[str]

    @property
    def config_file(self) -> Path:
        """The settings file for this cluster and repository."""
        return self.folder / FILE_NAME

    @property
    def repository(self) -> Path:
        """Where the demo's repository lies."""
        return self.folder / "repository"

    def settings(self) -> Settings:
        """The settings of the file, and of it alone: the user's own environment stays out."""
        return load_settings(CommonOptions(config=self.config_file), environment={})


@dataclass(slots=True)
class Folder:
    """The demo's directory. What is in it, and the simulator on it, outlive the demo if `is_kept`."""

    path: Path
    is_kept: bool = False


@contextmanager
def open_folder(wanted: Path | None) -> Iterator[Folder]:
    """A directory for everything, emptied and removed at the end unless it is to be kept.

    A wanted directory must be empty or absent; `ConfigInvalid` otherwise.
    """
    existed = wanted is not None and wanted.exists()
    if wanted is not None:
        if existed and (not wanted.is_dir() or any(wanted.iterdir())):
            raise ConfigInvalid("--dir", str(wanted), "is there and not empty; name another place")
        wanted.mkdir(parents=True, exist_ok=True)
        folder = Folder(wanted.absolute())
    else:
        folder = Folder(Path(tempfile.mkdtemp(prefix="ahvault-demo-")))
    try:
        yield folder
    finally:
        if not folder.is_kept:
            _empty(folder.path)
            if not existed:
                folder.path.rmdir()


@contextmanager
def start_site(folder: Folder, *, size: float) -> Iterator[Site]:
    """Run a simulator in the folder until the block ends, or for good if the folder is kept."""
    log = folder.path / "simulator.log"
    with log.open("w", encoding="utf-8") as errors:
        child = _start_simulator(folder.path / "simulator", size, errors)
    try:
        facts = _wait_until_ready(child, log)
        site = Site(folder.path, facts, child)
        _write_config(site)
        yield site
    finally:
        if not folder.is_kept:
            stop_process(child)


def stop_process(child: subprocess.Popen[str]) -> None:
    """End a child as its user would, and for sure."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    if child.stdout is not None:
        child.stdout.close()


def _start_simulator(state: Path, size: float, errors: IO[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from cli.main import main; main()", "simulator"]
    arguments = ["--port", "0", "--state", str(state), "--size", str(size)]
    # A session of its own: Ctrl-C reaches the demo alone, which still needs a cluster to clean up.
    return subprocess.Popen(  # noqa: S603 - our own interpreter and our own arguments
        [*command, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def _wait_until_ready(child: subprocess.Popen[str], log: Path) -> dict[str, Any]:
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    out = cast("IO[str]", child.stdout)
    threading.Thread(target=lambda: lines.put(out.readline()), daemon=True).start()
    try:
        line = lines.get(timeout=READY_S_MAX)
    except queue.Empty:
        reason = f"it was not ready within {READY_S_MAX:.0f} s"
        raise DemoFailed("start the simulator", reason) from None
    if not line:
        said = log.read_text(encoding="utf-8").strip().splitlines()
        raise DemoFailed("start the simulator", said[-1] if said else "it ended at once")
    facts: dict[str, Any] = json.loads(line)
    return facts


def _write_config(site: Site) -> None:
    facts = site.facts
    lines = [
        "# Made by `ahvault demo`: a simulated cluster and its repository.",
        "[cluster]",
        f"url = {json.dumps(facts['pc_url'])}",
        f"username = {json.dumps(facts['username'])}",
        f"password = {json.dumps(facts['password'])}",
        f"ca_file = {json.dumps(facts['ca_file'])}",
        f"prism_element_port = {urlsplit(facts['pe_url']).port}",
        "",
        "[repository]",
        f"url = {json.dumps(str(site.repository))}",
    ]
    for worker in facts["workers"]:
        lines += [
            "",
            "[[workers]]",
            f"vm = {json.dumps(worker['name'])}",
            f"device_root = {json.dumps(worker['device_root'])}",
        ]
    site.config_file.touch(mode=0o600)
    site.config_file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
