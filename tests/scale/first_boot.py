"""The inside of a worker VM: what cloud-init and systemd make of its user data, on this machine.

Its files lie in a folder that stands for its `/`. The commands of the first boot are run; only the
package index, udev and the service manager are stood in for. The service's own command line runs as a
process, in the environment that the unit gives it and no other, while the simulator has the VM on.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from typing import Any

import yaml

from simulator import Simulator
from tests.scale.processes import Child
from tests.scale.units import Unit

SERVICE = "ahvault-worker.service"
PLACES = ("/opt/ahvault", "/var/lib/ahvault", "/etc/ahvault")
POLL_S = 0.1


class WorkerGuest:
    """One worker VM that boots when it is first powered on, and whose service lives as long as its power."""

    def __init__(self, simulator: Simulator, name: str, root: Path) -> None:
        self.simulator, self.name, self.root = simulator, name, root
        self.user_data: str | None = None
        self.service: Child | None = None
        self.trouble: BaseException | None = None
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._live, name=f"guest {name}")

    def __enter__(self) -> WorkerGuest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()
        if self.service is not None:
            self.service.end()
        if self.trouble is not None:
            raise self.trouble

    @property
    def log(self) -> Path:
        """What the service said."""
        return self.root / "service.log"

    def _live(self) -> None:
        try:
            while not self._ends.wait(POLL_S):
                self._follow_power(self._is_on())
        except BaseException as error:  # noqa: BLE001 - raised again where the block ends
            self.trouble = error

    def _is_on(self) -> bool:
        vms = self.simulator.story.describe()["vms"]
        return any(each["name"] == self.name and each["power_state"] == "ON" for each in vms)

    def _follow_power(self, is_on: bool) -> None:
        if is_on and self.user_data is None:
            self.user_data = self.simulator.story.user_data(self.name)
            assert self.user_data is not None
            self._first_boot(yaml.safe_load(self.user_data))
        if self.service is None:
            return
        if is_on and not self.service.is_running():
            self.service.start()
        if not is_on and self.service.is_running():
            self.service.end()

    # -- first boot --------------------------------------------------------------------------------

    def _first_boot(self, document: dict[str, Any]) -> None:
        for file in document["write_files"]:
            path = self.root / file["path"].lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file["content"])
            path.chmod(int(file.get("permissions", "0644"), 8))
        (self.root / "var/lib/ahvault").mkdir(parents=True)  # The unit's StateDirectory.
        self._stand_ins()
        for command in document["runcmd"]:
            self._run([self._placed(word) for word in command])
        if (self.root / "enabled").exists():
            self.service = self._service()

    def _placed(self, text: str) -> str:
        for place in PLACES:
            text = text.replace(place, f"{self.root}{place}")
        return text

    def _stand_ins(self) -> None:
        programs = self.root / "usr/bin"
        programs.mkdir(parents=True)
        (programs / "python3").symlink_to(Path(sys.executable).resolve())
        for name, script in {
            "udevadm": "exit 0",
            "systemctl": f'[ "$*" = "enable --now {SERVICE}" ] && touch {self.root}/enabled',
        }.items():
            (programs / name).write_text(f"#!/bin/sh\n{script}\n")
            (programs / name).chmod(0o755)

    def _run(self, command: list[str]) -> None:
        path = f"{self.root}/usr/bin:/usr/bin:/bin"
        environment = {"PATH": path, "HOME": str(self.root), "PIP_NO_INDEX": "1"}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        if command[:3] == ["python3", "-m", "venv"]:
            self._offer_dependencies(Path(command[3]))

    @staticmethod
    def _offer_dependencies(venv: Path) -> None:
        """What pip would fetch from an index is what runs this test; our own package is not in it."""
        here = sysconfig.get_path("purelib")
        there = sysconfig.get_path("purelib", vars={"base": str(venv)})
        (Path(there) / "dependencies.pth").write_text(f"{here}\n")
        script = Path(sys.executable).with_name("prefect").read_text().splitlines()
        installed = venv / "bin" / "prefect"
        installed.write_text("\n".join([f"#!{venv}/bin/python", *script[1:]]))
        installed.chmod(0o755)

    # -- the service -------------------------------------------------------------------------------

    def _service(self) -> Child:
        unit = Unit.parse((self.root / "etc/systemd/system" / SERVICE).read_text())
        given = {name: self._placed(value) for name, value in unit.environment(self.root).items()}
        # What systemd itself sets for a service with `User=`.
        own = {"PATH": "/usr/local/bin:/usr/bin:/bin", "USER": unit.one("User"), "LANG": "C.UTF-8"}
        assignments = [f"{name}={value}" for name, value in {**own, **given}.items()]
        program, *words = unit.command(given)
        directory = self._placed(unit.one("WorkingDirectory"))
        return Child(
            ["env", "-i", f"--chdir={directory}", *assignments, self._placed(program), *words],
            {},
            self.log,
        )


def build_wheel(project: Path, folder: Path) -> Path:
    """Our own package as `pip install` gets it."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--quiet", "--wheel-dir", str(folder), str(project)], check=True, timeout=120
    )
    (wheel,) = folder.glob("ahvault-*.whl")
    return wheel
