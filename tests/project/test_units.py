"""The systemd units that we ship and document: readable, with commands and options that exist, in places that are made."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import prefect.settings
import pytest
import yaml

from jobs import WorkerBoot
from tests.scale.units import Unit, read_environment

ROOT = Path(__file__).parents[2]
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
BOOT = yaml.safe_load(
    WorkerBoot(name="w-1", package="p", prefect_api_url="http://p.example.com/api").user_data()
)
BOOT_FILES = {each["path"]: each["content"] for each in BOOT["write_files"]}
FOLDER = "/etc/systemd/system/"
BLOCK = re.compile(rf"```ini\n# {FOLDER}([\w-]+\.service)\n(.*?)```", re.DOTALL)
UNITS = {
    **{path.removeprefix(FOLDER): text for path, text in BOOT_FILES.items() if FOLDER in path},
    **dict(found for page in PAGES.values() for found in BLOCK.findall(page)),
}
INSTALLED = "/opt/ahvault/"


def words_of(unit: Unit) -> list[str]:
    """The unit's command line, as the user data fills it in where it has blanks."""
    return unit.command(read_environment(BOOT_FILES["/etc/ahvault/worker.env"]))


def test_every_unit_is_found() -> None:
    """None escapes these tests by the way it is written down."""
    starts = sum(page.count("\nExecStart=") for page in PAGES.values()) + 1
    assert len(UNITS) == starts == 4, sorted(UNITS)


@pytest.mark.parametrize("name", UNITS)
def test_systemd_takes_the_unit(name: str, tmp_path: Path) -> None:
    """systemd finds nothing to ignore or to refuse in it; its program stands in the folder of this test's."""
    here = f"{sys.prefix}/"
    path = tmp_path / name
    path.write_text(UNITS[name].replace(INSTALLED, here))
    assert f"ExecStart={here}bin/" in path.read_text()
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", UNITS)
def test_its_command_and_options_exist(name: str, tmp_path: Path) -> None:
    """The program is one that the installation puts there, and the help of the very command has each option."""
    program, *words = words_of(Unit.parse(UNITS[name]))
    assert program.startswith(f"{INSTALLED}bin/")
    installed = Path(sys.prefix) / program.removeprefix(INSTALLED)
    options = [word for word in words if word.startswith("-")]
    command = words[: words.index(options[0])] if options else words
    told = subprocess.run(
        [str(installed), *command, "--help"],
        env={**os.environ, "COLUMNS": "200", "PREFECT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert told.returncode == 0, told.stderr
    usage = next(line for line in told.stdout.splitlines() if "Usage:" in line)
    assert " ".join(word for word in command if "." not in word) in usage
    assert set(options) <= set(re.findall(r"--[\w-]+", told.stdout))


@pytest.mark.parametrize("name", UNITS)
def test_its_user_and_places_are_made(name: str) -> None:
    """User, folders and the installation come from the user data, or from a step on its page or on the one that this names."""
    unit = Unit.parse(UNITS[name])
    if name == "ahvault-worker.service":
        users = {each["name"] for each in BOOT["users"] if isinstance(each, dict)}
        (state,) = unit.all("StateDirectory")
        made = {f"/var/lib/{state}", *(str(Path(path).parent) for path in BOOT_FILES)}
        makes_venv = ["python3", "-m", "venv", INSTALLED.rstrip("/")] in BOOT["runcmd"]
    else:
        page = next(page for page in PAGES.values() if f"{FOLDER}{name}" in page)
        steps = page if page is PAGES["serve.md"] else page + PAGES["serve.md"]
        users = set(re.findall(r"^ *sudo useradd .* (\w+)$", steps, re.MULTILINE))
        made = set(re.findall(r"^ *sudo install -d (\S+)$", steps, re.MULTILINE))
        makes_venv = f"sudo python3 -m venv {INSTALLED.rstrip('/')}\n" in steps
        assert page is steps or "(serve.md#as-a-service)" in page
    assert makes_venv
    assert unit.one("User") in users
    files = [str(Path(path).parent) for path in unit.all("EnvironmentFile")]
    assert {*unit.all("WorkingDirectory"), *files} <= made


def test_the_settings_of_prefect_that_we_name_exist() -> None:
    """Prefect ignores a name that it does not know, so a misspelt one would be set for nothing."""
    texts = [*PAGES.values(), *BOOT_FILES.values(), (ROOT / "prefect.yaml").read_text()]
    named = {name for text in texts for name in re.findall(r"\bPREFECT_[A-Z_]*[A-Z]\b", text)}
    named.remove("PREFECT_SERVER_ENCRYPTION_KEY")  # Its server reads this one past its settings.
    assert len(named) > 12
    assert [name for name in sorted(named) if not hasattr(prefect.settings, name)] == []
