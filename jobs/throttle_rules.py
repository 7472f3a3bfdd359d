"""Throttle rules: which transfers one concerns, and how fast they may go at a given moment. Pure.

A rule that names two ranges of addresses is about a network; one that names a job or a worker is
about what these move; one that names nothing is about the repository that keeps it. What a rule
names must all hold. Its limit is that of all transfers under it together (Q3), and of every rule
that concerns a transfer the lowest holds it back (Q5), simply because it keeps to all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from jobs.addresses import Address, AddressRange
from jobs.limits import Limit
from jobs.policies import TransferLimits
from jobs.week import WeeklyTimes

PUBLIC_RULE = "public-addresses"
"""Name of the built-in rule (Q8)."""

Direction = Literal["write", "read"]
Purpose = Literal["backup", "restore", "copy"]


_PUBLIC_PATH = (AddressRange.parse("any"), AddressRange.parse("public"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What is known of a transfer between this machine and a repository."""

    repository_id: str
    direction: Direction
    purpose: Purpose
    ends: frozenset[tuple[Address, Address]] = frozenset()
    """Own address and the store's, for each that the store has; empty within one machine (Q2)."""
    job: str | None = None
    worker: str | None = None


class ThrottleRule(WeeklyTimes):
    """One rule. Validated: a rule that exists can be carried out. Its times are those of `limit` (Q4)."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")]
    limit: Limit | None
    """What may flow per second, of all transfers under the rule together; None for no limit."""
    between: tuple[AddressRange, AddressRange] | None = None
    """The two ends of a path, in either order (Q1)."""
    job: str | None = None
    worker: str | None = None
    otherwise: Limit | None = None
    """The limit at all other times; without one nothing is limited then (Q4)."""
    restores: bool = False
    """Whether restores are limited too; by default nothing slows them down (Q6)."""
    encrypt: bool = False
    """Whether nothing goes in the clear; of the built-in rule about public addresses alone (Q8)."""

    @field_validator("job", "worker")
    @classmethod
    def _is_named(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("is empty; leave it out to mean any")
        return value

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.otherwise is not None and not self.times:
            raise ValueError("otherwise: holds outside the times of the rule; give some")
        if self.limit is None and self.otherwise is None and not self.is_built_in:
            raise ValueError("limit: is missing")
        return self

    @model_validator(mode="after")
    def _leaves_the_built_in_its_subject(self) -> Self:
        if not self.is_built_in and self.encrypt:
            raise ValueError(f"encrypt: is what the built-in rule {PUBLIC_RULE} alone asks for")
        is_whole = self.between == _PUBLIC_PATH and self.job is None and self.worker is None
        if self.is_built_in and not is_whole:
            raise ValueError(
                f"name: {PUBLIC_RULE} is the built-in rule about public addresses; its limit, times, "
                "restores and encryption can be adjusted, for the rest name another rule"
            )
        return self

    @model_validator(mode="after")
    def _units_fit_the_subject(self) -> Self:
        """Networks are limited in bits, repositories in bytes (Q12); jobs and workers in either."""
        for limit in (self.limit, self.otherwise):
            if limit is None:
                continue
            if self.is_of_network and limit.unit == "bytes":
                raise ValueError(
                    f"limit: a network is limited in bits, such as 100 Mbit/s; got {limit}"
                )
            if self.is_of_repository and limit.unit == "bits":
                raise ValueError(
                    f"limit: a repository is limited in bytes, such as 50 MiB/s; got {limit}"
                )
        return self

    @property
    def is_built_in(self) -> bool:
        """Whether it is the rule that is always there (Q8)."""
        return self.name == PUBLIC_RULE

    @property
    def is_of_network(self) -> bool:
        """Whether it is about a path between two ranges of addresses."""
        return self.between is not None

    @property
    def is_of_repository(self) -> bool:
        """Whether it is about the repository alone, whoever moves what."""
        return self.between is None and self.job is None and self.worker is None

    @property
    def subject(self) -> str:
        """What it is about, in words."""
        parts = []
        if self.between is not None:
            parts.append(f"{self.between[0]} <-> {self.between[1]}")
        if self.job is not None:
            parts.append(f"job {self.job}")
        if self.worker is not None:
            parts.append(f"worker {self.worker}")
        return ", ".join(parts) or "this repository"

    def concerns(self, traffic: Traffic) -> bool:
        """Whether a transfer is under the rule."""
        if traffic.purpose == "restore" and not self.restores:
            return False
        if self.job is not None and self.job != traffic.job:
            return False
        if self.worker is not None and self.worker != traffic.worker:
            return False
        if self.between is None:
            return True
        return any(_joins(self.between, *ends) for ends in traffic.ends)

    def limit_at(self, moment: datetime) -> Limit | None:
        """The limit in force at an aware moment; None where nothing is limited."""
        return self.limit if self.contains(moment) else self.otherwise

    def shared_key(self, traffic: Traffic) -> str:
        """Names the limit among all that are shared: transfers with equal keys share one limit.

        A network is the same whatever the repository. Reading and writing a repository each get the
        whole limit (Q10); everything else counts both ways together.
        """
        if self.is_of_network:
            return f"network:{self.name}"
        own = f"{traffic.repository_id}:{self.name}" + (f":{self.job}" if self.job else "")
        return f"{own}:{traffic.direction}" if self.is_of_repository else own


def public_rule(**adjusted: object) -> ThrottleRule:
    """The built-in rule, as it is or as adjusted: it limits nothing and asks for encryption (Q8)."""
    fields = {"name": PUBLIC_RULE, "limit": None, "between": _PUBLIC_PATH, "encrypt": True}
    return ThrottleRule.model_validate({**fields, **adjusted})


def _joins(between: tuple[AddressRange, AddressRange], one: Address, other: Address) -> bool:
    """Whether two hosts lie at the two ends, whichever at which."""
    first, second = between
    if one == other:
        return False
    return (first.holds(one) and second.holds(other)) or (first.holds(other) and second.holds(one))


@dataclass(frozen=True, slots=True)
class LimitInForce:
    """A rule that holds a transfer back at this moment."""

    rule: ThrottleRule
    key: str
    limit: Limit


def limits_in_force(
    rules: Iterable[ThrottleRule], traffic: Traffic, moment: datetime
) -> list[LimitInForce]:
    """What a transfer has to keep to at an aware moment, the lowest first (Q5)."""
    found = [
        LimitInForce(rule, rule.shared_key(traffic), limit)
        for rule in rules
        if rule.concerns(traffic) and (limit := rule.limit_at(moment)) is not None
    ]
    return sorted(found, key=lambda each: (each.limit.bytes_s, each.key))


def rules_of_job(job: str, limits: TransferLimits) -> tuple[ThrottleRule, ...]:
    """The limits that a job brings itself, as a rule of this job in every repository."""
    if limits.mbit_per_s is None and limits.otherwise_mbit_per_s is None:
        return ()
    return (
        ThrottleRule(
            name="limits-of-the-job",
            job=job,
            limit=_limit_of(limits.mbit_per_s),
            otherwise=_limit_of(limits.otherwise_mbit_per_s) if limits.times else None,
            times=limits.times,
            time_zone=limits.time_zone,
        ),
    )


def _limit_of(mbit_per_s: float | None) -> Limit | None:
    return None if mbit_per_s is None else Limit.of_mbit(mbit_per_s)
