"""Retention decides per point and says why: T1-T6 with the reference's vectors, D1-D6, the limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from repository.errors import InvalidInput, RepositoryError
from repository.gfs import GfsPolicy, KeepMonthly, KeepWeekly, KeepYearly, Weekday
from repository.retention import (
    Decision,
    ExcessiveDeparture,
    ExcessiveDrop,
    PointFacts,
    RetentionPlan,
    RetentionRefused,
    Rule,
    Verdict,
    plan_retention,
)
from repository.retention_policy import RetentionPolicy

BERLIN = ZoneInfo("Europe/Berlin")
DAY_ZERO = datetime(2026, 10, 31, 22, 0, tzinfo=UTC)
LAST_MOMENT = datetime.max.replace(tzinfo=timezone.min)
SATURDAYS = KeepWeekly(keep_weeks=4, day=Weekday.SATURDAY)


def at(day_number: float) -> datetime:
    """22:00 UTC on the day of this number; day 1 is 1 November 2026, a Sunday."""
    return DAY_ZERO + timedelta(days=day_number)


def point(day_number: float, **facts: Any) -> PointFacts:
    return PointFacts(
        **{
            "point_id": f"p{day_number:g}",
            "vm_id": "vm-1",
            "vm_name": "web",
            "job": "nightly",
            "started_at": at(day_number),
            **facts,
        }
    )


def days(*numbers: int) -> list[PointFacts]:
    return [point(number) for number in numbers]


def plan(points: Iterable[PointFacts], today: float, policy: RetentionPolicy) -> RetentionPlan:
    return plan_retention(points, policy, now=at(today) + timedelta(minutes=30))


def dropped(result: RetentionPlan) -> list[str]:
    return [gone.point_id for gone in result.drops(force=True)]


def decision(result: RetentionPlan, point_id: str) -> Decision:
    return next(item for item in result.decisions if item.point.point_id == point_id)


def rules(result: RetentionPlan, point_id: str) -> set[Rule]:
    return {reason.rule for reason in decision(result, point_id).reasons}


# The worked examples of the reference (backup-behaviour section 7). "forever forward" merges the
# oldest point into its full, which is here: the oldest point goes. "forward" deletes whole
# fragments late (T9), which has no meaning here: each point goes on its own day (T2, T4).
@pytest.mark.parametrize(
    ("keep_days", "made_on", "today", "gone"),
    [
        pytest.param(6, range(1, 8), 7, [], id="forever-forward-day-7"),
        pytest.param(6, range(1, 9), 8, ["p1"], id="forever-forward-day-8"),
        pytest.param(3, range(1, 8), 7, ["p1", "p2", "p3"], id="forward-day-7-without-fragments"),
        pytest.param(
            3, range(1, 9), 8, ["p1", "p2", "p3", "p4"], id="forward-day-8-without-fragments"
        ),
        pytest.param(5, [1, 2, 3, 4, 14], 14, ["p1", "p2"], id="pause-leaves-three"),
        pytest.param(1, [1, 2, 3, 4], 6, ["p1"], id="forward-day-6-without-fragments"),
        pytest.param(1, [1, 2, 3], 6, [], id="never-fewer-than-three"),
    ],
)
def test_worked_examples_of_the_reference(
    keep_days: int, made_on: Iterable[int], today: int, gone: list[str]
) -> None:
    """The reference's examples, carried over to points that do not depend on each other."""
    result = plan(days(*made_on), today, RetentionPolicy(keep_days=keep_days))
    assert dropped(result) == gone


def test_by_days_keeps_one_day_more_than_its_number() -> None:
    """T1, T2: the default of 7 leaves 8 daily points, and days without backups count."""
    daily = plan(days(*range(1, 31)), 30, RetentionPolicy())
    assert len(daily.decisions) - len(dropped(daily)) == 8
    every_third = plan(days(*range(3, 31, 3)), 30, RetentionPolicy())
    assert [d.point.point_id for d in every_third.decisions if d.verdict is Verdict.KEEP] == [
        "p24",
        "p27",
        "p30",
    ]


def test_a_session_across_midnight_belongs_to_the_day_it_began() -> None:
    """T3: two sessions ten minutes apart, on either side of local midnight, end a day apart."""
    policy = RetentionPolicy(keep_days=7, minimum_kept=1, time_zone=BERLIN)
    before = point(1, started_at=datetime(2026, 11, 1, 23, 55, tzinfo=BERLIN))
    after = point(2, started_at=datetime(2026, 11, 2, 0, 5, tzinfo=BERLIN))
    newest = point(9, started_at=datetime(2026, 11, 8, 22, 0, tzinfo=BERLIN))
    now = datetime(2026, 11, 9, 0, 1, tzinfo=BERLIN)
    assert dropped(plan_retention([before, after, newest], policy, now=now)) == ["p1"]


def test_the_day_is_counted_when_the_session_has_ended() -> None:
    """T3: a session of day 8 that ends on day 9 is evaluated on day 9."""
    policy = RetentionPolicy(keep_days=7, minimum_kept=1)
    points = days(1, 8)
    assert dropped(plan_retention(points, policy, now=at(8) + timedelta(minutes=90))) == []
    assert dropped(plan_retention(points, policy, now=at(8) + timedelta(minutes=150))) == ["p1"]


def test_the_time_zone_decides_the_day() -> None:
    """23:30 UTC is already tomorrow in Berlin, and the policy's zone is the one that counts."""
    points = [point(1, started_at=datetime(2026, 11, 1, 23, 30, tzinfo=UTC)), point(8)]
    now = datetime(2026, 11, 9, 12, 0, tzinfo=UTC)
    in_utc = RetentionPolicy(keep_days=7, minimum_kept=1)
    in_berlin = RetentionPolicy(keep_days=7, minimum_kept=1, time_zone=BERLIN)
    assert dropped(plan_retention(points, in_utc, now=now)) == ["p1"]
    assert dropped(plan_retention(points, in_berlin, now=now)) == []


@pytest.mark.parametrize("switch", [date(2026, 3, 29), date(2026, 10, 25)])
def test_days_of_23_and_25_hours_count_as_one(switch: date) -> None:
    """Around both changes of the clocks, exactly the point 8 local days old goes."""
    policy = RetentionPolicy(keep_days=7, minimum_kept=1, time_zone=BERLIN)
    for offset in range(10):
        today = switch + timedelta(days=offset)
        made = [
            datetime(day.year, day.month, day.day, hour, 30, tzinfo=BERLIN)
            for day in (today - timedelta(days=age) for age in range(9))
            for hour in (0, 2, 23)
        ]
        points = [point(number, started_at=moment) for number, moment in enumerate(made)]
        now = datetime(today.year, today.month, today.day, 23, 59, tzinfo=BERLIN)
        assert sorted(dropped(plan_retention(points, policy, now=now))) == ["p24", "p25", "p26"]


def test_by_count_keeps_the_newest_of_each_vm() -> None:
    """T1 (counts), T10: a VM that failed for days keeps its own newest points."""
    policy = RetentionPolicy(keep_days=None, keep_last=4)
    lagging = [point(n, point_id=f"other{n}", vm_id="vm-2") for n in range(1, 6)]
    result = plan([*days(*range(1, 11)), *lagging], 10, policy)
    assert dropped(result) == ["p1", "p2", "p3", "p4", "p5", "p6", "other1"]


def test_two_jobs_do_not_prune_each_other() -> None:
    """The same VM in two jobs: each job's newest points stay."""
    policy = RetentionPolicy(keep_days=None, keep_last=3)
    other_job = [point(n + 0.1, job="weekend") for n in range(1, 4)]
    assert dropped(plan([*days(4, 5, 6), *other_job], 6, policy)) == []


def test_any_rule_that_keeps_is_enough() -> None:
    """By days and by count together keep what either keeps."""
    result = plan(days(1, 2, 3, 14, 15), 15, RetentionPolicy(keep_days=2, keep_last=4))
    assert dropped(result) == ["p1"]
    assert rules(result, "p2") == {Rule.LAST}
    assert rules(result, "p15") == {Rule.DAYS, Rule.LAST, Rule.MINIMUM}


def test_flagged_points_take_no_place_in_the_count() -> None:
    """T5: two live weekly points besides the three counted ones; once ended, they are ordinary."""
    policy = RetentionPolicy(keep_days=None, keep_last=3, gfs=GfsPolicy(weekly=SATURDAYS))
    among_newest = plan(days(7, 12, 13, 14, 15, 16), 16, policy)
    assert dropped(among_newest) == ["p12"]
    assert rules(among_newest, "p14") == {Rule.WEEKLY, Rule.MINIMUM}
    points = days(7, 14, 15, 16, 17, 18)
    assert dropped(plan(points, 18, policy)) == ["p15"]
    assert rules(plan(points, 18, policy), "p14") == {Rule.WEEKLY}
    assert dropped(plan(points, 34, policy)) == ["p15"]
    assert dropped(plan(points, 35, policy)) == ["p7", "p15"]
    assert dropped(plan(points, 42, policy)) == ["p7", "p14", "p15"]


def test_flags_protect_until_the_last_one_ends() -> None:
    """G3: a point that is weekly, monthly and yearly goes when the yearly flag ends, not before."""
    gfs = GfsPolicy(
        weekly=SATURDAYS, monthly=KeepMonthly(keep_months=2), yearly=KeepYearly(keep_years=1)
    )
    policy = RetentionPolicy(minimum_kept=1, gfs=gfs)
    first = point(7, started_at=datetime(2026, 1, 3, 22, tzinfo=UTC))
    newest = point(500, started_at=datetime(2027, 1, 3, 22, tzinfo=UTC))
    last_day = datetime(2027, 1, 3, 23, 59, tzinfo=UTC)
    before = plan_retention([first, newest], policy, now=last_day)
    after = plan_retention([first, newest], policy, now=last_day + timedelta(minutes=1))
    assert decision(before, "p7").sentence == "kept: yearly until 2027-01-04"
    assert decision(after, "p7").sentence == (
        "dropped: weekly ended 2026-01-31; monthly ended 2026-03-04; yearly ended 2027-01-04; "
        "older than 7 days (made 2026-01-03)"
    )


def test_changed_keep_times_move_the_ends() -> None:
    """G8: the same point is weekly for longer once the policy says so."""
    points = days(7, 40, 41, 42)
    for weeks, until in ((5, "2026-12-12"), (9, "2027-01-09")):
        gfs = GfsPolicy(weekly=KeepWeekly(keep_weeks=weeks, day=Weekday.SATURDAY))
        result = plan(points, 40, RetentionPolicy(gfs=gfs))
        assert f"weekly until {until}" in decision(result, "p7").sentence


def test_a_changed_weekday_leaves_no_week_without_its_point() -> None:
    """G8 for derived flags: Saturday's points stand for the weeks that now begin on Thursday."""
    points = [*days(7, 14, 21, 28), *days(29, 30, 31)]
    for day in Weekday:
        gfs = GfsPolicy(weekly=KeepWeekly(keep_weeks=8, day=day))
        assert dropped(plan(points, 31, RetentionPolicy(keep_days=1, gfs=gfs))) == []


def test_holds_and_points_from_elsewhere_stay() -> None:
    """A hold beats every rule; imported, copied and ad-hoc points are not touched or counted (D5)."""
    points = [
        point(1, hold="audit 2026"),
        point(2, hold=""),
        point(3, exemption="copied from vault-b"),
        *days(4, 5, 6, 7),
        point(40, exemption="ad hoc"),
    ]
    result = plan(points, 40, RetentionPolicy())
    assert dropped(result) == ["p4"]
    assert decision(result, "p1").sentence == "kept: held: audit 2026"
    assert decision(result, "p2").sentence == "kept: held"
    assert decision(result, "p3").sentence == "kept: outside retention: copied from vault-b"


def test_impossible_dates_push_nothing_out() -> None:
    """Sanity limit 7.8: points from the future or from before AHV stay and take nobody's place."""
    poisoned = [
        point(60 + n, point_id=f"future{n}", started_at=at(3000 + n * 1e5)) for n in range(5)
    ]
    unset_clock = [point(0, point_id="epoch", started_at=datetime.fromtimestamp(60, tz=UTC))]
    extremes = [
        point(0, point_id="first", started_at=datetime.min.replace(tzinfo=timezone.max)),
        point(0, point_id="last", started_at=LAST_MOMENT),
    ]
    gfs = GfsPolicy(weekly=SATURDAYS, yearly=KeepYearly(keep_years=1))
    policy = RetentionPolicy(keep_days=1, keep_last=4, gfs=gfs)
    clean = plan(days(1, 2, 3, 4, 5, 6, 7), 12, policy)
    dirty = plan([*days(1, 2, 3, 4, 5, 6, 7), *poisoned, *unset_clock, *extremes], 12, policy)
    assert dropped(dirty) == dropped(clean) != []
    assert decision(dirty, "epoch").sentence == (
        "kept: dated 1970-01-01, before AHV existed: never counted, check the clocks"
    )
    assert rules(dirty, "future0") == {Rule.MISDATED}


def test_damaged_points_push_nothing_out() -> None:
    """Three newest points that verification found damaged do not cost the last good ones."""
    damaged = [point(n, is_damaged=True) for n in (38, 39, 40)]
    result = plan([*days(1, 2, 3, 4), *damaged], 40, RetentionPolicy(keep_days=1))
    assert dropped(result) == ["p1"]
    assert Rule.MINIMUM in rules(result, "p38")


@pytest.mark.parametrize(("today", "verdict"), [(40, "kept"), (60, "dropped")])
def test_a_damaged_point_is_said_to_be(today: int, verdict: str) -> None:
    """With either verdict, beside the reasons that made it; damage itself keeps and drops nothing."""
    points = [point(35, is_damaged=True), *days(36, 37, 38)]
    result = plan(points, today, RetentionPolicy(keep_days=7))
    decided = decision(result, "p35")
    assert str(decided.verdict) == verdict
    assert [reason.rule for reason in decided.reasons] == [Rule.DAYS, Rule.DAMAGED]
    assert "damaged" in decided.sentence
    assert Rule.DAMAGED not in rules(result, "p36")


def test_a_damaged_weekly_point_gets_a_stand_in() -> None:
    """Both stay while Saturday's point is damaged; Sunday's goes once verification is content."""
    policy = RetentionPolicy(keep_days=1, gfs=GfsPolicy(weekly=SATURDAYS))
    others = days(8, 18, 19, 20)
    assert dropped(plan([point(7, is_damaged=True), *others], 20, policy)) == []
    assert dropped(plan([point(7), *others], 20, policy)) == ["p8"]


def test_reasons_are_sentences_for_people() -> None:
    """Each verdict reads as one sentence that names its rules, dates and numbers."""
    policy = RetentionPolicy(keep_days=7, keep_last=3, gfs=GfsPolicy(weekly=SATURDAYS))
    result = plan(days(7, 9, 20, 26, 27, 28, 29, 30), 30, policy)
    told = {item.point.point_id: item.sentence for item in result.decisions}
    assert told["p7"] == "kept: weekly until 2026-12-05"
    assert told["p9"] == "dropped: older than 7 days (made 2026-11-09); not one of the newest 3"
    assert told["p20"] == "kept: weekly until 2026-12-18"
    assert told["p30"] == (
        "kept: within 7 days (made 2026-11-30); one of the newest 3; "
        "one of the newest 3, which always stay"
    )


def test_until_is_the_first_day_without_the_reason() -> None:
    """The date a reason carries is exact: the day before it still keeps, on it it does not."""
    policy = RetentionPolicy(keep_days=3, minimum_kept=1, gfs=GfsPolicy(weekly=SATURDAYS))
    points = days(8, 9, 12)
    until = {
        reason.rule: reason.until
        for item in plan(points, 9, policy).decisions[:2]
        for reason in item.reasons
    }
    assert until[Rule.DAYS] == date(2026, 11, 13)
    assert "p9" not in dropped(plan(points, 12, policy))
    assert "p9" in dropped(plan(points, 13, policy))


def test_too_many_drops_at_once_are_refused_with_the_numbers() -> None:
    """The sanity stop names VM and counts, lets other VMs go on, and yields to force alone."""
    quiet = [point(n, point_id=f"q{n}", vm_id="vm-2", vm_name="db") for n in range(30, 41)]
    result = plan([*days(*range(1, 41)), *quiet], 40, RetentionPolicy())
    assert result.refusals == (ExcessiveDrop("nightly", "vm-1", "web", 32, 40, 20),)
    with pytest.raises(RetentionRefused, match=r"32 of the 40 restore points of web") as caught:
        result.drops()
    assert isinstance(caught.value, RepositoryError)
    assert caught.value.refusals == result.refusals
    assert len(result.drops(force=True)) == 35
    assert [gone.point_id for gone in result.drops_within_limits()] == ["q30", "q31", "q32"]


@pytest.mark.parametrize(
    ("made", "percent", "is_refused"),
    [(16, 50, False), (17, 50, True), (9, 1, False), (10, 1, True)],
)
def test_the_share_is_exact_and_one_point_may_always_go(
    made: int, percent: int, is_refused: bool
) -> None:
    """Half of sixteen may go, nine of seventeen may not; a tiny share never blocks daily trimming."""
    policy = RetentionPolicy(drop_percent_max=percent)
    assert bool(plan(days(*range(1, made + 1)), made, policy).refusals) is is_refused


def departed_plan(
    points: Iterable[PointFacts], attempts: Mapping[str, datetime] | None, **settings: Any
) -> RetentionPlan:
    policy = RetentionPolicy(**{"keep_days": 30, "departed_after_days": 7, **settings})
    return plan_retention(points, policy, now=at(20), attempts=attempts)


def test_departed_vms_lose_their_points_only_when_asked_for() -> None:
    """D1, D2: off by default; with it, only at the end of a clean session; then even the minimum."""
    points = [*days(10, 11, 12), point(20, point_id="here", vm_id="vm-2")]
    attempts = {"vm-2": at(20)}
    assert dropped(departed_plan(points, attempts, departed_after_days=None)) == []
    assert dropped(departed_plan(points, None)) == []
    result = departed_plan(points, attempts)
    assert [gone.point_id for gone in result.drops()] == ["p10", "p11", "p12"]
    assert decision(result, "p12").sentence == (
        "dropped: its VM has departed: last tried 2026-11-12, more than 7 days ago"
    )


def test_a_vm_that_keeps_failing_is_not_departed() -> None:
    """D2: a failed attempt within N days counts, to the day."""
    points = days(1, 2, 3)
    assert dropped(departed_plan(points, {"vm-1": at(13)})) == []
    assert dropped(departed_plan(points, {"vm-1": at(12)})) == ["p1", "p2", "p3"]
    assert dropped(departed_plan(points, {})) == ["p1", "p2", "p3"]
    assert dropped(departed_plan(days(1, 2, 13), {})) == []


def test_departure_spares_flags_holds_and_doubts() -> None:
    """G11 and holds: weekly points stay until their end, held ones for ever, as do odd dates' VMs."""
    points = [point(1, hold=""), point(2), point(7), point(8)]
    result = departed_plan(points, {}, gfs=GfsPolicy(weekly=SATURDAYS))
    assert dropped(result) == ["p2", "p8"]
    assert rules(result, "p7") == {Rule.WEEKLY}
    assert dropped(departed_plan([*points, point(30)], {})) == []
    assert dropped(departed_plan(points, {"vm-1": at(21)})) == []
    assert dropped(departed_plan(points, {"vm-1": LAST_MOMENT})) == []


def test_a_wave_of_departures_is_refused() -> None:
    """Three of four VMs gone at once looks like an empty inventory; one of four is normal."""
    vms = [point(1, point_id=f"p{n}", vm_id=f"vm-{n}", vm_name=f"name-{n}") for n in range(1, 5)]
    wave = departed_plan(vms, {"vm-4": at(20)})
    names = ("name-1", "name-2", "name-3")
    assert wave.refusals == (ExcessiveDeparture("nightly", ("vm-1", "vm-2", "vm-3"), names, 4, 2),)
    assert wave.drops_within_limits() == ()
    with pytest.raises(RetentionRefused, match=r"3 of the 4 VMs of job nightly .*name-1, name-2"):
        wave.drops()
    single = departed_plan(vms, {f"vm-{n}": at(20) for n in (2, 3, 4)})
    assert [gone.point_id for gone in single.drops()] == ["p1"]


def test_vms_that_departed_long_ago_are_no_wave() -> None:
    """Three VMs of which only weekly points are left do not block the departure of a fourth."""
    remains = [point(7, point_id=f"w{n}", vm_id=f"vm-{n}") for n in (1, 2, 3)]
    fresh = [point(7.1, point_id="x4", vm_id="vm-4"), point(7, point_id="w4", vm_id="vm-4")]
    result = departed_plan([*remains, *fresh], {}, gfs=GfsPolicy(weekly=SATURDAYS))
    assert [gone.point_id for gone in result.drops()] == ["x4"]


def test_a_vm_with_a_new_id_starts_anew() -> None:
    """D6: points under the old id are counted apart from those under the new one."""
    new = [point(n, vm_id="vm-1-again") for n in (18, 19, 20)]
    assert dropped(plan([*days(1, 2, 3), *new], 20, RetentionPolicy())) == []


def test_input_that_cannot_be_right_is_refused() -> None:
    """Naive times and repeated ids are mistakes of the caller, said so instead of guessed around."""
    with pytest.raises(InvalidInput, match="no time zone"):
        point(1, started_at=datetime(2026, 11, 1))  # noqa: DTZ001 - the mistake under test
    with pytest.raises(InvalidInput, match="now"):
        plan_retention([], RetentionPolicy(), now=datetime(2026, 11, 1))  # noqa: DTZ001
    with pytest.raises(InvalidInput, match="vm-9"):
        departed_plan([], {"vm-9": datetime(2026, 11, 1)})  # noqa: DTZ001
    with pytest.raises(InvalidInput, match="p1: given twice"):
        plan([point(1), point(1)], 1, RetentionPolicy())


def test_no_points_no_plan() -> None:
    """An empty repository has an empty plan."""
    assert plan([], 1, RetentionPolicy()) == RetentionPlan((), ())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"keep_days": None}, "set keep_days or keep_last"),
        ({"keep_days": 0}, "keep_days"),
        ({"keep_last": 0}, "keep_last"),
        ({"minimum_kept": 0}, "minimum_kept"),
        ({"drop_percent_max": 101}, "drop_percent_max"),
        ({"departed_after_days": 0}, "departed_after_days"),
        ({"time_zone": "Mars/Olympus"}, "invalid timezone"),
        ({"keep_hours": 3}, "keep_hours"),
    ],
)
def test_policies_that_cannot_be_meant_are_refused(settings: dict[str, object], said: str) -> None:
    """Each bad setting is named, before anything is planned with it."""
    with pytest.raises(ValidationError, match=said):
        RetentionPolicy.model_validate(settings)


def test_a_policy_survives_json_and_describes_every_field() -> None:
    """The form and stored jobs need it: round trip without loss, a description per field."""
    policy = RetentionPolicy(keep_last=14, gfs=GfsPolicy(weekly=SATURDAYS), time_zone=BERLIN)
    assert RetentionPolicy.model_validate_json(policy.model_dump_json()) == policy
    schema = RetentionPolicy.model_json_schema()
    for model in (schema, *(m for m in schema["$defs"].values() if "properties" in m)):
        assert all(field.get("description") for field in model["properties"].values())
