"""The simulator's own calls: every action of `Story` by name, for tools that are not Python.

`POST /simulator/v1/<action>` with a JSON object of arguments; bytes travel as `content_base64`.
"""

from __future__ import annotations

import base64
from typing import Any

from pydantic import ConfigDict, ValidationError, validate_call

from simulator.api.doors import Admin
from simulator.documents import Document
from simulator.errors import (
    BadFaultPlanError,
    GuestError,
    RefusedError,
    SchemaError,
    ToolFailedError,
)
from simulator.story import Story

ACTIONS = (
    "write_file",
    "append_file",
    "delete_file",
    "list_files",
    "write_raw",
    "discard_raw",
    "power",
    "migrate",
    "relocate",
    "revert",
    "fill_container",
    "grow_disk",
    "add_vm",
    "remove_vm",
    "add_disk",
    "remove_disk",
    "replace_disk",
    "add_volume_group",
    "delete_recovery_point",
    "set_host_state",
    "advance_clock",
    "set_faults",
    "struck_faults",
    "frozen",
    "describe",
    "user_data",
)


def administrator(story: Story) -> Admin:
    """A function from an action's name and arguments to its result."""
    config = ConfigDict(strict=True)
    checked = {name: validate_call(config=config)(getattr(story, name)) for name in ACTIONS}

    def act(name: str, arguments: Document) -> Any:
        action = checked.get(name)
        if action is None:
            raise RefusedError(
                f"There is no action {name}; there are {', '.join(ACTIONS)}.", status=404
            )
        try:
            return action(**_with_bytes(arguments))
        except ValidationError as error:
            first = error.errors()[0]
            raise SchemaError(f"{first['loc']}: {first['msg']}", str(first["loc"][0])) from error
        except (GuestError, ToolFailedError, BadFaultPlanError) as error:
            raise RefusedError(str(error), code="SIM-10001", group="GUEST_ERROR") from error

    return act


def _with_bytes(arguments: Document) -> Document:
    if "content_base64" not in arguments:
        return arguments
    rest = {k: v for k, v in arguments.items() if k != "content_base64"}
    return {**rest, "content": base64.b64decode(arguments["content_base64"])}
