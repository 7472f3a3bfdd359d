"""Which VMs a session takes, in which order, and which disks of them (E1-E5)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from urllib.parse import urlsplit

from jobs.errors import JobInvalid, NothingToBackUp
from jobs.selection import DiskRule, Scope, Selection
from nutanix import AhvClient, NutanixError, Vm, VmAmbiguous, VmNotFound

_CONTROLLER = re.compile(r"NTNX-.+-CVM")
_PRISM_CENTRAL = re.compile(r"NTNX-(?:.+-)?PCVM(?:-.+)?")

ALL_DISKS = DiskRule()


@dataclass(frozen=True, slots=True)
class VmTarget:
    """A VM that a session takes."""

    vm_id: str
    vm_name: str
    size_bytes: int = 0
    """Size of all its disks."""
    disk_rule: DiskRule = ALL_DISKS
    """Which of its disks are wanted."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A VM that the scope selects and that is not backed up all the same, and why."""

    vm_id: str
    vm_name: str
    why: str

    def __str__(self) -> str:
        return f"{self.vm_name}: {self.why}"


@dataclass(frozen=True, slots=True)
class ChosenVms:
    """A scope, looked up: what is taken, and everything about it that must not pass in silence."""

    targets: tuple[VmTarget, ...]
    left_out: tuple[LeftOut, ...] = ()
    unknown_vms: Mapping[str, NutanixError] = field(default_factory=dict)
    """Named VMs that the scope wants and the cluster cannot tell, with its error. They count as failed."""
    warnings: tuple[str, ...] = ()
    """Categories, clusters, exclusions and rules that name what is not there."""
    errors: tuple[NutanixError | JobInvalid, ...] = ()
    """The same and the unknown VMs, for somebody who can correct them at once."""


def choose_vms(
    client: AhvClient,
    scope: Scope,
    *,
    never: Iterable[str] = (),
    disk_rules: Sequence[DiskRule] = (),
) -> ChosenVms:
    """The VMs of a scope, each once (S11), as the cluster has them at this moment (E1).

    In the order of the lists: named VMs, then categories, name patterns and clusters; the members
    of each by size, largest first, then by name (E5). Exclusion beats inclusion (E2). VMs whose ids
    are in `never` (the workers), controller VMs and Prism Central's own are left out, with or
    without being named (E4, W15).

    A name that the cluster does not know is no reason to leave the others unprotected: it is
    told in the answer. Only when nothing is left to back up: the cluster's error for a VM that is
    not there or ambiguous, `JobInvalid` for anything else that is not there, or `NothingToBackUp`.
    """
    directory = _Directory(client)
    wanted = directory.look_up(scope, "scope")
    excluded = directory.look_up(scope.exclude, "scope.exclude")
    reasons = {vm.id: "excluded by the job" for vm in excluded.vms}
    reasons |= directory.infrastructure() | dict.fromkeys(never, "it is a worker")
    rules = [
        (rule, directory.look_up(rule, f"disk_rules.{n}")) for n, rule in enumerate(disk_rules)
    ]
    vms = wanted.vms if not scope.is_empty else _largest_first(directory.vms)
    taken = [vm for vm in vms if vm.id not in reasons]
    if not taken:
        wanted.raise_first()
        raise NothingToBackUp(scope.describe())
    told = [
        *(each for each in wanted.problems if each.kind != "vms"),
        # A pattern that keeps nothing out is no mistake: it may be there for later.
        *(each for each in excluded.problems if each.kind != "name_patterns"),
        *(each for _, found in rules for each in found.problems),
    ]
    unknown_vms = {
        each.name: each.error for each in wanted.problems if isinstance(each.error, NutanixError)
    }
    return ChosenVms(
        targets=tuple(
            VmTarget(vm.id, vm.name, _size_bytes(vm), _rule_for(vm, rules)) for vm in taken
        ),
        left_out=tuple(LeftOut(vm.id, vm.name, reasons[vm.id]) for vm in vms if vm.id in reasons),
        unknown_vms=unknown_vms,
        warnings=tuple(f"{each.place}: {each}" for each in told),
        errors=(*unknown_vms.values(), *(each.error for each in told)),
    )


def why_no_disk(rule: DiskRule, vm: Vm) -> str | None:
    """Why a VM that has disks would have a restore point without one, or None."""
    labels = [disk.label for disk in vm.data_disks]
    if not labels or any(rule.takes(label) for label in labels):
        return None
    return (
        f"the job's disk rules take none of the disks of {vm.name}, which are {', '.join(labels)}"
    )


@dataclass(frozen=True, slots=True)
class _Problem:
    """A name of a job that cannot be looked up."""

    place: str
    kind: str
    name: str
    error: NutanixError | JobInvalid

    def __str__(self) -> str:
        return self.error.reason if isinstance(self.error, JobInvalid) else str(self.error)


@dataclass(frozen=True, slots=True)
class _Found:
    """What a selection turned out to mean."""

    vms: tuple[Vm, ...]
    problems: tuple[_Problem, ...]

    def raise_first(self) -> None:
        """Raise the first problem, if there is one."""
        for problem in self.problems:
            raise problem.error


class _Directory:
    """What the cluster has at one moment, to look names up in. Each kind is read once, when needed."""

    def __init__(self, client: AhvClient) -> None:
        self._client = client
        self.vms = client.vms()

    @cached_property
    def _categories(self) -> dict[str, str]:
        return {each.label: each.id for each in self._client.categories()}

    @cached_property
    def _clusters(self) -> dict[str, str]:
        clusters = self._client.clusters()
        return {each.id: each.id for each in clusters} | {each.name: each.id for each in clusters}

    def infrastructure(self) -> dict[str, str]:
        """The VMs that make up the platform itself, by id, with what they are (E4)."""
        found: dict[str, str] = {}
        prism_central = urlsplit(self._client.connection.url).hostname
        for vm in self.vms:
            if _CONTROLLER.fullmatch(vm.name):
                found[vm.id] = "it is a controller VM of the cluster"
            elif _PRISM_CENTRAL.fullmatch(vm.name) or prism_central in _addresses(vm):
                found[vm.id] = "it is Prism Central's own VM"
        return found

    def look_up(self, selection: Selection, place: str) -> _Found:
        """The VMs of a selection in its order, each once, and what of it is not there."""
        vms: dict[str, Vm] = {}
        problems: list[_Problem] = []
        for kind, name in _entries(selection):
            try:
                found = self._members(kind, name)
            except (VmNotFound, VmAmbiguous, JobInvalid) as error:
                problems.append(_Problem(f"{place}.{kind}", kind, name, error))
            else:
                vms |= {vm.id: vm for vm in found if vm.id not in vms}
        return _Found(tuple(vms.values()), tuple(problems))

    def _members(self, kind: str, name: str) -> Sequence[Vm]:
        if kind == "vms":
            return [self._named(name)]
        if kind == "name_patterns":
            return self._fitting(name)
        if kind == "categories":
            wanted = self._id_of(kind, name, self._categories, "category")
            return _largest_first(vm for vm in self.vms if wanted in vm.category_ids)
        wanted = self._id_of(kind, name, self._clusters, "cluster")
        return _largest_first(vm for vm in self.vms if vm.cluster_id == wanted)

    def _named(self, name: str) -> Vm:
        named = [vm for vm in self.vms if vm.name == name]
        if len(named) > 1:
            raise VmAmbiguous(name, sorted(vm.id for vm in named))
        found = named or [vm for vm in self.vms if vm.id == name]
        if not found:
            raise VmNotFound(name, near_names(name, (vm.name for vm in self.vms)))
        return found[0]

    def _fitting(self, pattern: str) -> list[Vm]:
        found = _largest_first(vm for vm in self.vms if fnmatchcase(vm.name, pattern))
        if not found:
            raise JobInvalid("scope.name_patterns", f"no VM is named {pattern}")
        return found

    def _id_of(self, kind: str, name: str, known: Mapping[str, str], word: str) -> str:
        if name not in known:
            near = near_names(name, known)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise JobInvalid(f"scope.{kind}", f"the cluster has no {word} {name}{hint}")
        return known[name]


def _entries(selection: Selection) -> Iterator[tuple[str, str]]:
    for kind in ("vms", "categories", "name_patterns", "clusters"):
        for name in getattr(selection, kind):
            yield kind, name


def _rule_for(vm: Vm, rules: Sequence[tuple[DiskRule, _Found]]) -> DiskRule:
    """The rule that holds for a VM: the one that names it, else by container, else for all (E3)."""
    fitting = [
        (_distance(vm, rule), number, rule)
        for number, (rule, found) in enumerate(rules)
        if rule.is_empty or any(each.id == vm.id for each in found.vms)
    ]
    return min(fitting, key=lambda each: each[:2])[2] if fitting else ALL_DISKS


def _distance(vm: Vm, rule: DiskRule) -> int:
    if vm.name in rule.vms or vm.id in rule.vms:
        return 0
    return 2 if rule.is_empty else 1


def _largest_first(vms: Iterable[Vm]) -> list[Vm]:
    return sorted(vms, key=lambda vm: (-_size_bytes(vm), vm.name, vm.id))


def _size_bytes(vm: Vm) -> int:
    return sum(disk.size_bytes for disk in vm.data_disks)


def _addresses(vm: Vm) -> set[str | None]:
    return {nic.ip_address for nic in vm.nics if nic.ip_address}


def near_names(wanted: str, names: Iterable[str]) -> list[str]:
    """Names that look like the wanted one, the nearest first."""
    by_folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(wanted.casefold(), by_folded, n=3, cutoff=0.6)
    return [by_folded[name] for name in close]
