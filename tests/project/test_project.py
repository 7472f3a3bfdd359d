"""The project holds itself to its own rules."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from prefect.utilities.callables import parameter_schema
from prefect.utilities.importtools import import_object

from flows.deployments import UPKEEP
from flows.scale_out import RUN_SETTINGS

ROOT = Path(__file__).parents[2]
PACKAGES = ["flows", "tasks", "blocks", "jobs", "repository", "nutanix", "simulator", "cli"]
BELOW_THE_EDGE = ["jobs", "repository", "nutanix"]


def sources(*packages: str) -> list[Path]:
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def test_no_other_distribution_owns_one_of_our_names() -> None:
    """Our folders are top-level import names, so an installed package of the same name would shadow them."""
    owners = packages_distributions()
    assert {name: set(owners.get(name, ["ahvault"])) for name in PACKAGES} == {
        name: {"ahvault"} for name in PACKAGES
    }


@pytest.mark.parametrize("name", ["tasks", "blocks", "jobs", "repository", "nutanix", "simulator"])
def test_a_package_exports_what_it_says(name: str) -> None:
    """`__all__` is sorted, constants first, complete and importable: other packages import from the top only."""
    package = importlib.import_module(name)
    assert list(package.__all__) == sorted(
        package.__all__, key=lambda each: (not each.isupper(), each)
    )
    missing = [each for each in package.__all__ if not hasattr(package, each)]
    assert missing == []
    assert package.__doc__


def test_packages_import_each_other_from_the_top() -> None:
    """`from repository.packs import ...` outside repository/ would tie callers to its insides."""
    inside = re.compile(rf"^(?:from|import) ({'|'.join(PACKAGES)})\.\w+", re.MULTILINE)
    deep = [
        f"{path.relative_to(ROOT)}: {match.group(0)}"
        for path in sources(*PACKAGES)
        for match in inside.finditer(path.read_text())
        if match.group(1) != path.relative_to(ROOT).parts[0] and match.group(1) != "flows"
    ]
    assert deep == []


@pytest.mark.parametrize("module", BELOW_THE_EDGE)
def test_the_lower_packages_work_without_prefect(module: str) -> None:
    """On the bad day a repository is restored from with nothing of Prefect installed or imported."""
    code = f"import sys, {module}; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_time_and_terminal_stay_at_the_edge() -> None:
    """Below the edge no module reads a clock, sleeps or prints by itself; each package has one system clock."""
    calls = re.compile(r"\b(datetime\.now|time\.time|time\.sleep|utcnow|print)\(")
    found = {
        str(path.relative_to(ROOT))
        for path in sources(*BELOW_THE_EDGE)
        for line in path.read_text().splitlines()
        if calls.search(line) and not line.lstrip().startswith("#")
    }
    assert found <= {"repository/units.py", "nutanix/clock.py"}


def test_the_shipped_deployments_fit_the_flows() -> None:
    """Every deployment of prefect.yaml names a flow that exists, and only parameters that the flow has."""
    shipped = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    assert {each["name"] for each in shipped["deployments"]} >= {"nightly", "restore-vm"}
    for deployment in shipped["deployments"]:
        flow = import_object(deployment["entrypoint"])
        known = set(parameter_schema(flow).properties)
        assert set(deployment["parameters"]) <= known, deployment["name"]


def test_the_shipped_maintenance_is_that_of_serve() -> None:
    """`prefect deploy --all` and `ahvault serve` offer the same flows, on the same schedules."""
    shipped = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    in_yaml = {
        each["name"]: (
            import_object(each["entrypoint"]),
            each["schedules"][0]["cron"],
            each["description"],
            set(each["parameters"]),
        )
        for each in shipped["deployments"]
        if "maintenance" in each["tags"]
    }
    served = {
        each.flow.name: (each.flow, each.cron, each.description, set(each.connections))
        for each in UPKEEP
    }
    assert in_yaml == served


def test_the_shipped_deployments_set_what_scale_setup_sets() -> None:
    """Each run's process gets the same settings by either way; without its heartbeat a long run is called crashed."""
    shipped = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    for deployment in shipped["deployments"]:
        assert deployment["work_pool"]["job_variables"] == {"env": RUN_SETTINGS}, deployment["name"]


def test_the_lock_pins_every_dependency_with_hashes_and_names_no_host() -> None:
    """`make` installs exactly what was tested, from whatever index the machine uses."""
    lock = (ROOT / "requirements.lock").read_text()
    pins = re.findall(r"^([a-z0-9._-]+)==", lock, re.MULTILINE)
    assert len(pins) > 100
    assert lock.count("--hash=sha256:") > len(pins)
    assert "://" not in lock
    declared = re.findall(
        r'^    "([a-z0-9._-]+)', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    wanted = {name for name in declared if name not in PACKAGES} - {"a", "e", "i"}
    runtime = {
        "blake3",
        "cryptography",
        "fsspec",
        "httpx",
        "prefect",
        "pyarrow",
        "pydantic",
        "zstandard",
    }
    assert runtime <= wanted
    assert runtime <= set(pins)


def test_nothing_unfinished_is_committed() -> None:
    """No TODO, no bare except, no absolute path of somebody's machine."""
    unfinished = re.compile(r"\b(?:TODO|FIXME|XXX)\b|except:\s*$")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources(*PACKAGES, "tests")
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if unfinished.search(line) or str(ROOT) + "/" in line
    ]
    assert found == []
