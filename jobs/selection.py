"""Which VMs and disks a job means, as an operator writes it (E1-E3). `jobs/scope.py` looks them up."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

_CATEGORY = re.compile(r"[^/]{1,64}/.{1,64}")
_DISK = re.compile(r"(?:scsi|ide|sata|pci|spapr)\.\d{1,3}")

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


def _is_category(text: str) -> str:
    if not _CATEGORY.fullmatch(text):
        raise ValueError(
            f"a category is written key/value, such as Environment/production; got {text!r}"
        )
    return text


def _is_disk(text: str) -> str:
    label = text.lower().replace(":", ".")
    if not _DISK.fullmatch(label):
        raise ValueError(
            f"a disk is written as its bus and index, such as scsi.0; the buses are scsi, sata, ide, "
            f"pci and spapr; got {text!r}"
        )
    return label


CategoryName = Annotated[Text, AfterValidator(_is_category)]
DiskLabel = Annotated[Text, AfterValidator(_is_disk)]


class Selection(BaseModel):
    """VMs by name, category, cluster or name pattern: the sum of all four lists.

    All but named VMs are looked up anew at each run, so that members come and go by themselves (E1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vms: Annotated[
        tuple[Text, ...],
        Field(title="VMs", description="VMs by name or id."),
    ] = ()
    categories: Annotated[
        tuple[CategoryName, ...],
        Field(
            title="Categories",
            description="Every VM that carries one of these categories, each written key/value.",
        ),
    ] = ()
    name_patterns: Annotated[
        tuple[Text, ...],
        Field(
            title="Name patterns",
            description="Every VM whose name fits, for example `db*` or `web0[1-4]`; capitals count.",
        ),
    ] = ()
    clusters: Annotated[
        tuple[Text, ...],
        Field(title="Clusters", description="Every VM of these clusters, by name or id."),
    ] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is selected."""
        return not (self.vms or self.categories or self.name_patterns or self.clusters)

    def words(self) -> str:
        """The selection in words, for messages; "" when it is empty."""
        parts = [", ".join(self.vms)]
        parts += [f"category {each}" for each in self.categories]
        parts += [f"VMs named {each}" for each in self.name_patterns]
        parts += [f"cluster {each}" for each in self.clusters]
        return ", ".join(part for part in parts if part)


class Scope(Selection):
    """Which VMs a job protects. Without any selection: every VM. Exclusion always wins (E2)."""

    exclude: Annotated[
        Selection,
        Field(
            title="Except",
            description="VMs that are never backed up by this job, whatever else selects them.",
        ),
    ] = Selection()

    def describe(self) -> str:
        """The scope in words, for messages."""
        chosen = self.words() or "every VM"
        excluded = self.exclude.words()
        return f"{chosen} except {excluded}" if excluded else chosen


class DiskRule(Selection):
    """Which disks of some VMs are backed up: what is not listed is left out (E3).

    Of several rules that fit a VM, one that names it wins over one that fits by category, pattern or
    cluster, and that over one without any selection; among equals the first in the list.
    """

    disks: Annotated[
        tuple[DiskLabel, ...],
        Field(
            title="Disks",
            description="The disks to back up, by bus and index, such as scsi.0. Empty: all disks. "
            "CD-ROM drives are never read.",
        ),
    ] = ()
    volume_groups: Annotated[
        bool,
        Field(
            title="With volume groups",
            description="Whether volume groups that are attached to the VM are backed up with it.",
        ),
    ] = True

    def takes(self, label: str) -> bool:
        """Whether the disk at this bus and index, such as `scsi.0`, is backed up."""
        return not self.disks or label in self.disks


def refuse_contradictions(rules: tuple[DiskRule, ...]) -> tuple[DiskRule, ...]:
    """The rules, when no VM is named by two of them; ValueError otherwise."""
    named = Counter(name for rule in rules for name in set(rule.vms))
    twice = sorted(name for name, count in named.items() if count > 1)
    if twice:
        raise ValueError(f"{twice[0]} is named by two rules; say all of its disks in one")
    return rules
