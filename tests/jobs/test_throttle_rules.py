"""Which transfers a throttle rule concerns, and how fast they may go (Q1, Q2, Q4-Q6, Q10, Q12)."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.addresses import AddressRange
from jobs.limits import Limit
from jobs.policies import TransferLimits
from jobs.throttle_rules import ThrottleRule, Traffic, limits_in_force, rules_of_job

MONDAY_NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def rule(**fields: Any) -> ThrottleRule:
    return ThrottleRule.model_validate({"name": "wan", "limit": "100 Mbit/s", **fields})


def traffic(**fields: Any) -> Traffic:
    ends = fields.pop("ends", ("10.0.0.5", "192.0.2.9"))
    pairs = frozenset({(ip_address(ends[0]), ip_address(ends[1]))}) if ends else frozenset()
    return Traffic(
        **{
            "repository_id": "r",
            "direction": "write",
            "purpose": "backup",
            "ends": pairs,
            "job": "nightly",
            "worker": "w1",
            **fields,
        }
    )


def test_a_rule_matches_a_pair_of_addresses_either_way_round() -> None:
    """Q1: ranges may be swapped; both ends must lie in them."""
    wan = rule(between=["10.0.0.0/8", "192.0.2.0/24"])
    assert wan.concerns(traffic())
    assert wan.concerns(traffic(ends=("192.0.2.9", "10.0.0.5")))
    assert not wan.concerns(traffic(ends=("10.0.0.5", "10.0.0.6")))
    assert not wan.concerns(traffic(ends=("10.0.0.5", "198.51.100.1")))


def test_traffic_within_one_machine_is_under_no_network_rule() -> None:
    """Q2: a store without an address, or with our own, is not reached over a network."""
    everything = rule(between=["any", "any"])
    assert everything.concerns(traffic())
    assert not everything.concerns(traffic(ends=None))
    assert not everything.concerns(traffic(ends=("10.0.0.5", "10.0.0.5")))


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("10.0.0.0/8", "10.255.1.1", "11.0.0.0"),
        ("10.0.0.5", "10.0.0.5", "10.0.0.6"),
        ("10.0.0.5-10.0.0.9", "10.0.0.9", "10.0.0.10"),
        ("2001:db8::/32", "2001:db8::1", "10.0.0.1"),
        ("public", "8.8.8.8", "192.168.1.1"),
        ("private", "127.0.0.1", "8.8.8.8"),
        ("any", "::1", None),
    ],
)
def test_ranges_of_addresses(text: str, inside: str, outside: str | None) -> None:
    """Each way to write a range holds what it says and nothing beyond."""
    found = AddressRange.parse(text)
    assert found.holds(ip_address(inside))
    assert outside is None or not found.holds(ip_address(outside))


def test_everything_that_a_rule_names_must_hold() -> None:
    """Job, worker and addresses narrow the rule, each for itself and together."""
    narrow = rule(between=["any", "any"], job="nightly", worker="w1")
    assert narrow.concerns(traffic())
    assert not narrow.concerns(traffic(job="weekly"))
    assert not narrow.concerns(traffic(worker="w2"))
    assert rule(limit="50 MiB/s").concerns(traffic(ends=None, job=None, worker=None))


def test_restores_are_exempt_unless_the_rule_says_so() -> None:
    """Q6: nothing slows a restore down by default; copies and backups are always under rules."""
    assert not rule(job="restore").concerns(traffic(purpose="restore", job="restore"))
    assert rule(job="restore", restores=True).concerns(traffic(purpose="restore", job="restore"))
    assert rule(limit="1 MiB/s").concerns(traffic(purpose="copy"))


def test_marked_hours_have_one_limit_and_the_others_another_or_none() -> None:
    """Q4: a grid of weekday and hour in the rule's own time zone."""
    office = rule(job="nightly", times=["mon-fri 08:00-18:00"], time_zone="Europe/Berlin")
    assert str(office.limit_at(MONDAY_NOON)) == "100 Mbit/s"
    assert office.limit_at(MONDAY_NOON.replace(hour=16, minute=59)) is not None
    assert office.limit_at(MONDAY_NOON.replace(hour=17)) is None  # 18:00 in Berlin
    assert office.limit_at(MONDAY_NOON.replace(hour=6, minute=59)) is None
    assert office.limit_at(MONDAY_NOON.replace(hour=7)) is not None
    assert office.limit_at(MONDAY_NOON.replace(day=22)) is None  # a Sunday
    night = rule(job="nightly", times=["mon-fri 08:00-18:00"], otherwise="1 Gbit/s")
    assert str(night.limit_at(MONDAY_NOON.replace(hour=20))) == "1 Gbit/s"


def test_the_lowest_limit_in_force_comes_first() -> None:
    """Q5: of several rules the lowest of those in force at that moment holds a transfer back."""
    rules = [
        rule(name="link", between=["any", "any"], limit="100 Mbit/s"),
        rule(name="store", limit="10 MiB/s"),
        rule(name="day", job="nightly", limit="1 Mbit/s", times=["sat 00:00-24:00"]),
        rule(name="other", job="weekly", limit="1 Mbit/s"),
    ]
    found = limits_in_force(rules, traffic(), MONDAY_NOON)
    assert [each.rule.name for each in found] == ["store", "link"]
    assert found[0].limit.bytes_s == 10 * 2**20
    assert found[1].limit.bytes_s == 12.5e6
    saturday = limits_in_force(rules, traffic(), MONDAY_NOON.replace(day=28))
    assert [each.rule.name for each in saturday] == ["day", "store", "link"]


def test_what_shares_a_limit() -> None:
    """Q3, Q10: a network is one for all repositories; reading and writing one are two."""
    link, store = rule(between=["any", "any"]), rule(limit="1 MiB/s")
    one, other = traffic(repository_id="a"), traffic(repository_id="b")
    assert link.shared_key(one) == link.shared_key(other)
    assert store.shared_key(one) != store.shared_key(other)
    assert store.shared_key(one) != store.shared_key(traffic(repository_id="a", direction="read"))
    assert link.shared_key(one) == link.shared_key(traffic(direction="read"))


@pytest.mark.parametrize(
    ("text", "bytes_s"),
    [
        ("100 Mbit/s", 12_500_000),
        ("8Mbit/s", 1_000_000),
        ("10 Gbit/s", 1_250_000_000),
        ("64 kbit/s", 8_000),
        ("50 MiB/s", 52_428_800),
        ("1.5 GB/s", 1_500_000_000),
    ],
)
def test_limits_say_their_unit(text: str, bytes_s: float) -> None:
    """Q12: bits are decimal and an eighth of a byte; MiB are powers of two."""
    assert Limit.parse(text).bytes_s == bytes_s


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"limit": "100"}, "limit", "100 Mbit/s or 50 MiB/s"),
        ({"limit": "100 Mb/h"}, "limit", "100 Mbit/s or 50 MiB/s"),
        ({"limit": "1 kbit/s"}, "limit", "between 64 kbit/s"),
        ({"limit": "1 MiB/s", "between": ["any", "any"]}, "", "a network is limited in bits"),
        ({"limit": "1 Mbit/s"}, "", "a repository is limited in bytes"),
        ({"between": ["10.0.0.0/33", "any"]}, "between", "is no address"),
        ({"between": ["10.0.0.9-10.0.0.1", "any"]}, "between", "runs backwards"),
        ({"job": "x", "times": ["someday 01:00-02:00"]}, "times", "no range of the week"),
        ({"job": "x", "otherwise": "1 Gbit/s"}, "", "otherwise: holds outside the times"),
        ({"job": "x", "limit": None}, "", "limit: is missing"),
        ({"job": "x", "time_zone": "Europe/Atlantis"}, "time_zone", "no time zone"),
        ({"job": "  "}, "job", "is empty"),
        ({"name": "with space", "job": "x"}, "name", "match pattern"),
        ({"job": "x", "limits": 1}, "limits", "not permitted"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_with_field_and_reason(
    fields: dict[str, Any], field: str, reason: str
) -> None:
    """The message names what to change, and how."""
    with pytest.raises(ValidationError) as caught:
        rule(**fields)
    first = caught.value.errors()[0]
    assert (str(first["loc"][0]) if first["loc"] else "") == field
    assert reason in first["msg"]


def test_a_job_brings_its_own_limit() -> None:
    """The fields of the job's form become a rule of that job, in its times and outside them."""
    limits = TransferLimits(
        mbit_per_s=8, otherwise_mbit_per_s=800, times=("mon 00:00-24:00",), time_zone="UTC"
    )
    (own,) = rules_of_job("nightly", limits)
    assert own.limit_at(MONDAY_NOON) == Limit.parse("8 Mbit/s")
    assert own.limit_at(MONDAY_NOON.replace(day=24)) == Limit.parse("800 Mbit/s")
    assert own.concerns(traffic())
    assert not own.concerns(traffic(job="weekly"))
    assert own.shared_key(traffic()) != rules_of_job("weekly", limits)[0].shared_key(traffic())
    (free,) = rules_of_job("x", TransferLimits(otherwise_mbit_per_s=8, times=("mon 00:00-24:00",)))
    assert free.limit_at(MONDAY_NOON) is None
    assert rules_of_job("nightly", TransferLimits()) == ()


def test_a_rule_survives_its_record() -> None:
    """What is stored is what a person would write, and reads back as the same rule."""
    known = rule(
        between=["10.0.0.0/8", "public"],
        times=["mon-fri 08:00-18:00"],
        otherwise="1 Gbit/s",
        restores=True,
    )
    document = known.model_dump(mode="json")
    assert document["limit"] == "100 Mbit/s"
    assert document["between"] == ["10.0.0.0/8", "public"]
    assert ThrottleRule.model_validate(document) == known
