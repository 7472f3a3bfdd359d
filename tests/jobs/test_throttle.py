"""Sharing a limit: for all together, equally, and at once when anything changes (Q3, Q5, Q7)."""

from __future__ import annotations

import threading
from concurrent.futures import Executor, Future
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import LimitsUnavailable, ThrottleInvalid
from jobs.limits import Limit
from jobs.throttle import LocalLimits, ThrottleEngine
from jobs.throttle_book import RuleBook, ThrottleSettings, parse_rule
from jobs.throttle_lane import FIRST_SHARE, Grant, Lane, SharedLimits
from jobs.throttle_place import _mount_of, ends_of_path, host_of_store
from jobs.throttle_rules import ThrottleRule
from repository import Clock, Repository, Stopped
from tests.jobs.throttle_simulation import AtOnce, Simulation, VirtualClock

MIB = 2**20
LIMITS = ["64 kbit/s", "8 Mbit/s", "50 MiB/s", "10 Gbit/s"]


def near(found: float, expected: float, percent: float = 5) -> bool:
    return abs(found - expected) <= expected * percent / 100


@pytest.mark.parametrize("text", LIMITS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_limit_holds_for_all_under_it_and_is_shared_equally(text: str, count: int) -> None:
    """Q3: within 5 % over 30 s, whatever the limit and however many share it."""
    bytes_s = Limit.parse(text).bytes_s
    world = Simulation(LocalLimits)
    senders = [world.add() for _ in range(count)]
    run_s = 30 if bytes_s > 1e5 else 300  # a slow limit is shared in turns of seconds
    world.run(run_s, lambda _: bytes_s)
    sent = [each.bytes_between(0, run_s) for each in senders]
    assert near(sum(sent), bytes_s * run_s)
    assert all(near(each, bytes_s * run_s / count, 10) for each in sent)


@pytest.mark.parametrize(("answer_s", "percent"), [(0.1, 5), (1.0, 15), (3.0, 100)])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_slow_answers_neither_break_nor_waste_a_limit(
    answer_s: float, percent: float, count: int
) -> None:
    """The limit holds to the last; how equally it is shared suffers when a busy server takes seconds."""
    world = Simulation(LocalLimits, answer_s)
    senders = [world.add() for _ in range(count)]
    world.run(330, lambda _: MIB)
    sent = [each.bytes_between(30, 330) for each in senders]
    assert near(sum(sent), 300 * MIB)
    assert all(near(each, 300 * MIB / count, percent) for each in sent)
    assert not world.unavailable


def test_answers_that_take_longer_than_anybody_waits_are_made_up_for() -> None:
    """What a transfer sends by itself while an answer is under way is an advance on that turn."""
    world = Simulation(LocalLimits, answer_s=12)
    senders = [world.add() for _ in range(3)]
    world.run(300, lambda _: MIB)
    assert sum(each.bytes_between(60, 300) for each in senders) <= 1.05 * 240 * MIB
    assert world.unavailable


def test_no_second_is_much_above_the_limit() -> None:
    """What moves is smooth: no window of a second holds more than a turn beyond its part."""
    world = Simulation(LocalLimits)
    for _ in range(3):
        world.add()
    world.run(20, lambda _: MIB)
    seconds = [
        sum(each.bytes_between(start, start + 1) for each in world.senders)
        for start in range(1, 20)
    ]
    assert max(seconds) <= 1.15 * MIB
    assert min(seconds) >= 0.85 * MIB


def test_when_one_ends_the_others_get_its_part_and_a_newcomer_gets_one() -> None:
    """Q3: shares follow who is there, within seconds."""
    world = Simulation(LocalLimits)
    stays, ends, comes = world.add(), world.add(end_s=10), world.add(start_s=20)
    world.run(30, lambda _: MIB)
    assert near(stays.bytes_between(0, 10), 5 * MIB, 10)
    assert near(ends.bytes_between(0, 10), 5 * MIB, 10)
    assert near(stays.bytes_between(12, 20), 8 * MIB)
    assert near(stays.bytes_between(22, 30), 4 * MIB, 15)
    assert near(comes.bytes_between(22, 30), 4 * MIB, 15)


def test_what_one_does_not_use_the_others_get() -> None:
    """A transfer that is slow by itself leaves the rest of the limit to the others."""
    world = Simulation(LocalLimits)
    slow, fast = world.add(own_bytes_s=MIB / 5), world.add()
    world.run(30, lambda _: MIB)
    assert near(slow.bytes_between(5, 30), 25 * MIB / 5, 10)
    assert near(fast.bytes_between(5, 30), 25 * MIB * 4 / 5)


@pytest.mark.parametrize(("before", "after"), [(100 * MIB, MIB), (MIB, 100 * MIB)])
def test_a_changed_limit_holds_at_once(before: float, after: float) -> None:
    """Q7: what was reserved at the old rate is void, so that a cut by a hundred acts in a second."""
    world = Simulation(LocalLimits)
    senders = [world.add() for _ in range(3)]
    world.run(20, lambda at_s: before if at_s < 10 else after)
    assert near(sum(each.bytes_between(0, 10) for each in senders), 10 * before)
    assert near(sum(each.bytes_between(11, 20) for each in senders), 9 * after)


class HeardFirst:
    """Limits that another transfer has cut already: what is granted is granted at the new rate."""

    def __init__(self, bytes_s: float) -> None:
        self.bytes_s = bytes_s
        self.granted: list[Grant] = []

    def reserve(self, key: str, bytes_s: float, length_bytes: int) -> Grant:
        self.granted.append(Grant(0.0, length_bytes, self.bytes_s))
        return self.granted[-1]


def test_turns_granted_at_the_new_rate_are_good_when_the_change_is_heard_of() -> None:
    """Q7: whoever hears of a cut last uses the long turns that it has, as their time is nobody else's."""
    clock, shared = VirtualClock(), HeardFirst(MIB)
    lane = Lane("k", shared, clock, AtOnce(), lambda _: None)
    lane.use(1, 16 * MIB)
    assert [grant.length_bytes for grant in shared.granted] == [8 * MIB]
    left_bytes = 8 * MIB - 1
    while left_bytes:
        gone_bytes, wait_s = lane.use(min(left_bytes, MIB), MIB)
        left_bytes -= gone_bytes
        clock.seconds += wait_s
    assert clock.seconds == pytest.approx(1008)
    assert len(shared.granted) <= 2  # the next turn, ahead


class Silent:
    """Limits whose holder answers as long as it is told to."""

    def __init__(self, clock: Clock) -> None:
        self.inner = LocalLimits(clock)
        self.is_away = False

    def reserve(self, key: str, bytes_s: float, length_bytes: int) -> Grant:
        if self.is_away:
            raise LimitsUnavailable(key, "no route")
        return self.inner.reserve(key, bytes_s, length_bytes)


def test_while_nobody_answers_each_goes_on_at_its_last_share() -> None:
    """Two that shared a limit keep to half of it each; when the holder is back all is as before."""
    world = Simulation(Silent)
    assert isinstance(world.shared, Silent)
    silent, senders = world.shared, [world.add(), world.add()]

    def limit(at_s: float) -> float:
        silent.is_away = 10 <= at_s < 40
        return MIB

    world.run(80, limit)
    for sender in senders:
        assert near(sender.bytes_between(11, 40), 29 * MIB / 2, 10)
        assert near(sender.bytes_between(44, 80), 36 * MIB / 2, 10)
    assert world.unavailable


def test_a_transfer_that_never_heard_of_others_takes_a_modest_share() -> None:
    """Alone with a holder that does not answer from the start, it neither stops nor takes all."""
    world = Simulation(Silent)
    assert isinstance(world.shared, Silent)
    world.shared.is_away = True
    sender = world.add()
    world.run(20, lambda _: MIB)
    assert near(sender.bytes_between(1, 20), 19 * MIB * FIRST_SHARE)


class Never(Executor):
    """Never comes to what it is given."""

    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        return Future()


def test_an_answer_that_does_not_come_is_not_waited_for_long() -> None:
    """Five seconds, then the transfer goes on by itself, and says so."""
    clock, told = VirtualClock(), list[LimitsUnavailable]()
    lane = Lane("limit", LocalLimits(clock), clock, Never(), told.append)
    start_s = clock.seconds
    while not (found := lane.use(1, MIB))[0]:
        clock.seconds += found[1]
    assert 5 <= clock.seconds - start_s < 6
    assert len(told) == 1


class Waiting(threading.Event):
    """A stop event in virtual time: whoever waits for it moves the clock."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self.clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        self.clock.seconds += max(timeout or 0, 1e-6)
        return self.is_set()


class Scene:
    """An engine over rules that a test may change, in virtual time."""

    def __init__(self, *rules: dict[str, Any], shared: type[SharedLimits] | Any = None) -> None:
        self.clock = VirtualClock()
        self.stop = Waiting(self.clock)
        self.settings = ThrottleSettings(rules=tuple(map(rule, rules)))
        self.reads = 0
        self.fails = False
        self.engine = ThrottleEngine(
            repository_id="r",
            read=self._read,
            ends=lambda _: frozenset({(ip_address("10.0.0.1"), ip_address("192.0.2.1"))}),
            shared=LocalLimits(self.clock),
            clock=self.clock,
            background=AtOnce(),
        )

    def _read(self) -> ThrottleSettings:
        self.reads += 1
        if self.fails:
            raise ThrottleInvalid("record", "torn")
        return self.settings

    def seconds_for(self, length_bytes: int, **traffic: Any) -> float:
        """Virtual seconds that a transfer takes to send so much."""
        fields = {"direction": "write", "purpose": "backup", "job": "nightly", **traffic}
        throttle = self.engine.transfer(stop=self.stop, **fields)
        start_s = self.clock.seconds
        for _ in range(length_bytes // 2**18):
            throttle.acquire(2**18)
        return self.clock.seconds - start_s


def rule(fields: dict[str, Any]) -> ThrottleRule:
    return parse_rule({"name": "wan", "limit": "8 Mbit/s", **fields})


def test_the_lowest_of_several_rules_holds_a_transfer_back() -> None:
    """Q5, in whatever order they are given, and whether asked for in slices or all at once."""
    low = {"name": "low", "limit": "1 MiB/s"}
    high = {"name": "high", "limit": "16 Mbit/s", "between": ["any", "any"]}
    for rules in ((low, high), (high, low)):
        assert near(Scene(*rules).seconds_for(20 * MIB), 20)
    scene = Scene(high, low)
    start_s = scene.clock.seconds
    throttle = scene.engine.transfer(direction="write", purpose="backup", stop=scene.stop)
    throttle.acquire(20 * MIB)
    assert near(scene.clock.seconds - start_s, 20)


def test_restores_and_other_jobs_go_unhindered() -> None:
    """Q6 and the job: who is under no rule waits for nothing."""
    scene = Scene({"job": "nightly"})
    assert near(scene.seconds_for(10 * MIB), 10 * MIB / 1e6)
    assert scene.seconds_for(10 * MIB, job="weekly") == 0
    assert scene.seconds_for(10 * MIB, purpose="restore", direction="read") == 0


def test_a_rule_that_changes_acts_on_a_transfer_within_seconds() -> None:
    """Q7: set, changed and removed while the transfer runs; it looks again by the clock."""
    scene = Scene()
    throttle = scene.engine.transfer(direction="write", purpose="backup", stop=scene.stop)

    def rate(seconds: float) -> float:
        start_s, sent = scene.clock.seconds, 0
        while scene.clock.seconds - start_s < seconds:
            throttle.acquire(2**18)
            sent += 2**18
            scene.clock.seconds += 0.001  # the transfer itself
        return sent / (scene.clock.seconds - start_s)

    assert rate(5) > 100 * MIB
    scene.settings = ThrottleSettings(rules=(rule({"limit": "1 MiB/s"}),))
    rate(4)
    assert near(rate(10), MIB)
    scene.settings = ThrottleSettings(rules=(rule({"limit": "4 MiB/s"}),))
    rate(4)
    assert near(rate(10), 4 * MIB)
    scene.settings = ThrottleSettings()
    rate(4)
    assert rate(5) > 100 * MIB
    assert scene.reads < 40  # not once per slice


def test_an_hour_that_ends_acts_on_a_transfer_within_seconds() -> None:
    """Q7: crossing an hour's border is a change too (virtual noon is a Monday's)."""
    scene = Scene({"times": ["mon 12:00-13:00"], "limit": "1 MiB/s", "otherwise": "4 MiB/s"})
    scene.clock.seconds = 3600 - 10.0
    assert near(scene.seconds_for(10 * MIB), 10)
    assert near(scene.seconds_for(40 * MIB), 10, 10)


def test_rules_that_cannot_be_read_hold_on(caplog: pytest.LogCaptureFixture) -> None:
    """A store in trouble neither ends a limit nor a transfer; it is told once."""
    scene = Scene({"limit": "1 MiB/s"})
    scene.fails = True
    assert near(scene.seconds_for(30 * MIB), 30)
    assert [record.message for record in caplog.records if "cannot be read" in record.message]
    assert scene.reads > 5
    assert len([each for each in caplog.records if each.levelname == "WARNING"]) == 1


def test_a_stop_ends_the_wait_for_a_limit() -> None:
    """Whoever waits for hours of a low limit still ends at once."""
    scene = Scene({"limit": "1 MiB/s"})
    throttle = scene.engine.transfer(direction="write", purpose="backup", stop=scene.stop)
    scene.stop.set()
    with pytest.raises(Stopped):
        throttle.acquire(100 * MIB)


def test_rules_are_kept_with_the_repository(tmp_path: Path) -> None:
    """Put, replaced, removed; the address stays; what is damaged is said to be."""
    with Repository.create(str(tmp_path / "r")) as repository:
        book = RuleBook(repository.live)
        assert book.read() == ThrottleSettings()
        book.put(rule({"limit": "1 MiB/s"}))
        book.place_at(ip_address("192.0.2.9"))
        book.put(rule({"limit": "2 MiB/s"}))
        book.put(rule({"name": "a", "job": "x"}))
        assert [each.name for each in book.read().rules] == ["a", "wan"]
        assert str(book.read().rules[1].limit) == "2 MiB/s"
        assert book.remove("a")
        assert not book.remove("a")
        assert book.read().address == ip_address("192.0.2.9")
        repository.live.put("throttle", "rules", {"rules": [{"name": "of the future"}]})
        with pytest.raises(ThrottleInvalid, match="another version"):
            book.read()


def test_refused_rules_name_the_field() -> None:
    """The error says which field, and why, as the command line shows it."""
    with pytest.raises(ThrottleInvalid, match="limit: a repository is limited in bytes"):
        rule({"limit": "8 Mbit/s"})
    with pytest.raises(ThrottleInvalid, match="no range of the week"):
        rule({"job": "x", "times": ["someday"]})


MOUNTS = """\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
40 22 0:50 / /mnt/backup\\040store rw shared:1 - nfs4 nas.example.com:/export/backup rw,addr=192.0.2.7
41 22 0:51 / /mnt/share rw - cifs //10.1.2.3/share rw
42 22 8:2 / /mnt/share/local rw - ext4 /dev/sdb1 rw
43 22 0:52 / /mnt/six rw - nfs4 [2001:db8::7]:/export rw
"""


@pytest.mark.parametrize(
    ("path", "server"),
    [
        ("/srv/backup", None),
        ("/mnt/backup store/ahvault", "nas.example.com"),
        ("/mnt/share/ahvault", "10.1.2.3"),
        ("/mnt/share/local/ahvault", None),
        ("/mnt/six", "2001:db8::7"),
    ],
)
def test_a_mounted_directory_lies_on_its_server(
    tmp_path: Path, path: str, server: str | None
) -> None:
    """Q2: NFS and SMB are traffic between two hosts although the URL is a path."""
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS)
    mount = _mount_of(Path(path), table)
    assert (mount.server if mount else None) == server


def test_the_two_ends_of_a_path() -> None:
    """Own address as the system would choose it; none within one machine (Q2)."""
    own, store = ip_address("127.0.0.1"), ip_address("127.0.0.2")
    assert ends_of_path("127.0.0.2") == {(own, store)}
    assert ends_of_path("127.0.0.1") == frozenset()
    assert ends_of_path(None) == frozenset()
    assert ends_of_path("no-such-host.invalid") == frozenset()
    assert host_of_store("sftp://b@10.0.0.1/x", "10.0.0.1") == "10.0.0.1"
