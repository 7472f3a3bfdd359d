"""docs/cli.md and the help pages say the same, and say all of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from cli.config import ClusterSettings, RepositorySettings, WorkerSettings
from cli.exit_codes import MEANINGS
from cli.main import app

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def _commands() -> dict[str, object]:
    return dict(_below("", get_command(app)))


def _below(name: str, command: object) -> Iterator[tuple[str, object]]:
    """The command itself, or all commands of a group, by their whole names."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
    for part, each in (inner or {}).items():
        yield from _below(f"{name} {part}".strip(), each)


COMMANDS = _commands()
SHARED = {"--help", "--json", "--verbose", "--debug", "--config"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_on_the_page_with_help_and_examples(name: str) -> None:
    """A command has a sentence of help, an example that names it, and its place on the page."""
    command = COMMANDS[name]
    assert f"`ahvault {name}" in PAGE
    assert inspect.cleandoc(command.help or "").endswith(".")
    assert f"ahvault {name}" in (command.epilog or "")
    for parameter in command.params:
        if "--help" not in parameter.opts:
            assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_on_the_page(name: str) -> None:
    """No option is known to the help alone."""
    for parameter in COMMANDS[name].params:
        options = [each for each in parameter.opts if each.startswith("--")]
        for option in set(options) - SHARED:
            assert option in PAGE, f"{name} {option}"


def test_every_setting_is_on_the_page() -> None:
    """File, environment and flag of each."""
    for section, model in (("cluster", ClusterSettings), ("repository", RepositorySettings)):
        for setting in model.model_fields:
            assert f"`[{section}] {setting}`" in PAGE
            assert f"AHVAULT_{section}_{setting}".upper() in PAGE
    assert f"`[[workers]] {', '.join(WorkerSettings.model_fields)}`" in PAGE


def test_the_exit_codes_are_those_of_the_program() -> None:
    """Number and meaning."""
    for code, meaning in MEANINGS.items():
        assert f"| {code.value} | {meaning} |" in PAGE
