"""Every error has an exit code and a sentence, and every name in the table is a real class."""

from __future__ import annotations

import errno
import importlib

import pytest

from cli import errors as cli_errors
from cli.errors import CliError
from cli.exit_codes import MEANINGS, ExitCode, exit_code_of, known_error_names
from cli.failures import describe, report_failure


@pytest.mark.parametrize("name", known_error_names())
def test_every_named_error_exists(name: str) -> None:
    """A renamed class would silently lose its exit code."""
    package, _, cls = name.partition(".")
    homes = [package, f"{package}.errors", f"{package}.exceptions"]
    found = [getattr(importlib.import_module(home), cls, None) for home in _importable(homes)]
    assert any(isinstance(each, type) and issubclass(each, BaseException) for each in found)


def _importable(names: list[str]) -> list[str]:
    return [name for name in names if importlib.util.find_spec(name) is not None]


def test_every_code_has_a_meaning() -> None:
    """The help page lists all of them."""
    assert set(MEANINGS) == set(ExitCode)


def test_every_error_of_ours_has_a_code_of_its_own_kind() -> None:
    """No error that we raise on purpose is ever reported as a mistake in ahvault."""
    import jobs
    import nutanix
    import repository

    roots = (CliError, repository.RepositoryError, nutanix.NutanixError, jobs.JobError)
    for root in roots:
        for cls in [root, *_descendants(root)]:
            assert exit_code_of(cls.__new__(cls)) is not ExitCode.INTERNAL
    assert exit_code_of(cli_errors.DemoFailed("x", "y")) is ExitCode.FAILED


def _descendants(cls: type) -> list[type]:
    below = cls.__subclasses__()
    return below + [deeper for each in below for deeper in _descendants(each)]


def test_a_full_file_system_says_what_to_do() -> None:
    """ENOSPC, wherever it comes from, names the file and the way out."""
    error = OSError(errno.ENOSPC, "No space left on device", "/srv/x")
    assert describe(error) == (
        "/srv/x: the file system is full. Free some space, then run the command again."
    )
    assert exit_code_of(error) is ExitCode.FAILED


def test_an_unknown_error_is_a_mistake_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    """It asks for a report; the traceback is shown only with --debug."""
    error = LookupError("surprise")
    assert report_failure(error, as_json=False, debug=False) is ExitCode.INTERNAL
    assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(LookupError) as raised:
        raise error
    report_failure(raised.value, as_json=False, debug=True)
    assert "Traceback" in capsys.readouterr().err
