"""The error tree: documented, one sentence each with what to do, and whole between processes."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

import nutanix.errors
from nutanix import ClusterMessage, NutanixError
from nutanix import errors as e

SAID = (ClusterMessage("no space", "VOL-1", "INSUFFICIENT_SPACE"),)
EXAMPLES = [
    e.ClusterUnreachable("https://pc:9440", "timed out"),
    e.CertificateUntrusted("https://pc:9440", "self-signed"),
    e.NotPrism("https://pc:9440", "it answers HTML"),
    e.RedirectedTooOften("https://pc:9440/api/x", ended_at="https://pc:9440/y", redirects=6),
    e.LoginRefused("https://pc:9440", "user backup"),
    e.PermissionDenied("power on VM v", SAID),
    e.NotFound("VM", "v", SAID),
    e.VmNotFound("v", ["w"]),
    e.VmAmbiguous("v", ["1", "2"]),
    e.RequestInvalid("create VM v", 422, SAID),
    e.ConcurrentChange("power on VM v"),
    e.ClusterBusy("list VMs", status=503, attempts=7, messages=SAID),
    e.AnswerUnusable("list VMs", "it is not JSON"),
    e.RegionsUnusable("d", "cut off"),
    e.FeatureMissing("create VM v", "its API is older than 4.1"),
    e.OperationFailed("attach", operation_id="t", status="FAILED", messages=SAID),
    e.OperationTimedOut("attach", operation_id="t", status="RUNNING", timeout_s=900),
    e.DeviceNotFound("0 (d)", Path("/dev"), looked_for="disk/by-path/x", timeout_s=60),
    e.DeviceMismatch("0 (d)", [Path("/dev/sdb")], "several devices fit"),
    e.TargetRefused("192.0.2.9:3260", "iqn.x", "the CHAP secret is wrong or missing"),
    e.DataServicesMissing("main"),
    e.InitiatorFailed("run iscsiadm -m session", "the iscsid service cannot be reached"),
    e.DiskIoError("read", "0 (d)", Path("/dev/sdb"), 512, "Input/output error"),
]


def all_kinds(kind: type[NutanixError] = NutanixError) -> set[type[NutanixError]]:
    found = {kind}
    for below in kind.__subclasses__():
        found |= all_kinds(below)
    return found


def test_every_kind_has_an_example_here():
    """A class that nobody raises or tests is found."""
    abstract = {NutanixError, e.DiskError}
    assert all_kinds() - abstract == {type(example) for example in EXAMPLES}


def test_the_tree_in_the_docstring_is_the_tree():
    """Every class stands in the drawing at the top, and nothing else does."""
    drawn = {line.lstrip("├│└─ ").split(" ")[0] for line in nutanix.errors.__doc__.splitlines()}
    names = {kind.__name__ for kind in all_kinds()}
    assert names <= drawn
    for kind in all_kinds():
        line = next(
            each for each in nutanix.errors.__doc__.splitlines()
            if each.lstrip("├│└─ ").split(" ")[0] == kind.__name__
        )  # fmt: skip
        if kind.is_transient:
            assert "(transient)" in line


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_every_message_is_a_sentence(error):
    """It starts with a capital or an address and ends with a full stop, and only one."""
    told = str(error)
    assert told[0].isupper() or told.startswith("https://") or told[0].isdigit()
    assert told.rstrip().endswith((".", "?"))
    assert ".." not in told


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_travel_between_processes(error):
    """Pickled, as a flow engine does, an error keeps its type, its message and its fields."""
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)
        assert again.is_transient is error.is_transient
