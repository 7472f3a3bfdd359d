"""The one place that turns an error into a sentence and an exit code.

Engines and commands raise; nothing below `main` prints an error or decides how the process ends.
"""

from __future__ import annotations

import errno
import traceback

from typer.exceptions import TyperException

from cli.exit_codes import ExitCode, exit_code_of
from cli.output import say, write_json


def report_failure(error: BaseException, *, as_json: bool, debug: bool) -> ExitCode:
    """Say what happened on stderr (and as the JSON document, if one was asked for)."""
    code = exit_code_of(error)
    if isinstance(error, TyperException) and not error.format_message():
        return code  # A group without a command: its help was the answer.
    sentence = describe(error)
    if debug:
        say("".join(traceback.format_exception(error)).rstrip())
    say(f"ahvault: {sentence}")
    if as_json:
        _write_document(type(error).__name__, code, sentence)
    return code


def _write_document(name: str, code: ExitCode, sentence: str) -> None:
    document = {"error": {"class": name, "exit_code": int(code), "message": sentence}}
    try:
        write_json(document)
    except OSError as error:
        # A stdout that takes nothing may be what went wrong in the first place.
        say(f"ahvault: stdout: {_describe_os_error(error)}")


def describe(error: BaseException) -> str:
    """One sentence for the operator. Errors of ours bring their own."""
    if exit_code_of(error) is ExitCode.INTERNAL:
        return (
            f"a mistake in ahvault itself: {type(error).__name__}: {error}. "
            "Run the command again with --debug and report what it prints."
        )
    if isinstance(error, TyperException):
        return _describe_usage_error(error)
    if isinstance(error, OSError) and type(error).__module__ == "builtins":
        return _describe_os_error(error)
    return _one_line(str(error))


def _describe_usage_error(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    hint = f" See `{context.command_path} --help`." if context is not None else ""
    return _one_line(error.format_message()) + hint


def _describe_os_error(error: OSError) -> str:
    subject = f"{error.filename}: " if error.filename else ""
    cause = error.strerror or str(error)
    if error.errno == errno.ENOSPC:
        return f"{subject}the file system is full. Free some space, then run the command again."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{subject}{cause}. Run as a user that may use it, or name another place."
    return _one_line(f"{subject}{cause}")


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if line.endswith((".", "?", "!")) else f"{line}."
