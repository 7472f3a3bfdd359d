"""Everything that the simulator raises.

    SimulatorError
    ├── MissingToolError   a program of e2fsprogs is not installed
    ├── ToolFailedError    such a program ran and said no
    ├── StateInUseError    another simulator has the state directory open
    ├── BadFaultPlanError  a plan of faults cannot be read
    ├── GuestError         a guest cannot do what was asked (no such file, no space)
    └── RefusedError       what the API answers with an error body, or a task fails with
        ├── NotFoundError      404
        ├── SchemaError        400, with the other body shape (SchemaValidationError)
        ├── PreconditionError  412, entity tags
        └── UnauthorisedError  401 or 403

A `RefusedError` carries all that the two places where it ends up need: the HTTP skin and the task record.
"""

from __future__ import annotations


class SimulatorError(Exception):
    """Root of the tree; catch it at the edge."""


class MissingToolError(SimulatorError):
    """A program that builds or reads file systems is not installed."""

    def __init__(self, program: str, package: str) -> None:
        self.program, self.package = program, package
        super().__init__(
            f"The program {program!r} was not found on PATH, in /sbin or in /usr/sbin. "
            f"Install the package {package!r}, then start the simulator again."
        )


class ToolFailedError(SimulatorError):
    """A program of e2fsprogs ended with an error."""

    def __init__(self, program: str, code: int, said: str) -> None:
        self.program, self.code, self.said = program, code, said
        super().__init__(f"{program} ended with code {code}: {said.strip()[-800:]}")


class StateInUseError(SimulatorError):
    """The state directory belongs to a simulator that is still running."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        super().__init__(
            f"Another simulator is using the state directory {directory}. "
            "Stop it, or give this one another directory."
        )


class BadFaultPlanError(SimulatorError):
    """A plan of faults is not one."""

    def __init__(self, source: str, reason: str) -> None:
        self.source, self.reason = source, reason
        super().__init__(f"The fault plan of {source} cannot be used: {reason}.")


class GuestError(SimulatorError):
    """A guest could not do what the story asked of it."""


class RefusedError(SimulatorError):
    """The answer is no: an HTTP error when said at once, a failed task when said later."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 422,
        code: str = "SIM-10000",
        group: str = "INVALID_INPUT",
    ) -> None:
        self.message, self.status, self.code, self.group = message, status, code, group
        super().__init__(message)


class NotFoundError(RefusedError):
    """No such entity."""

    CODES = {
        "vmm": ("VMM-20005", "VM_NOT_FOUND"),
        "dataprotection": ("DP-10400", "DATAPROTECTION_ENTITY_NON_EXISTENT_ERROR"),
        "volumes": ("VOL-30002", "ENTITY_NOT_FOUND"),
    }

    def __init__(self, kind: str, ext_id: str, namespace: str = "") -> None:
        self.kind, self.ext_id = kind, ext_id
        code, group = self.CODES.get(namespace, ("PLAT-20404", "RESOURCE_NOT_FOUND"))
        super().__init__(
            f"There is no {kind.replace('_', ' ')} with the id {ext_id}.",
            status=404,
            code=code,
            group=group,
        )


class SchemaError(RefusedError):
    """The request does not have the shape that the API describes."""

    def __init__(self, message: str, attribute: str) -> None:
        self.attribute = attribute
        super().__init__(message, status=400, code="PLAT-10001", group="SCHEMA_VALIDATION_ERROR")


class PreconditionError(RefusedError):
    """`If-Match` is absent, malformed or stale (nutanix-v4 §10, §23 rule 5)."""

    def __init__(self, message: str, *, code: str, group: str) -> None:
        super().__init__(message, status=412, code=code, group=group)


class UnauthorisedError(RefusedError):
    """Who are you (401), or: not you (403)."""

    def __init__(self, message: str, *, status: int = 401) -> None:
        group = "AUTHENTICATION_REQUIRED" if status == 401 else "ACCESS_DENIED"
        super().__init__(message, status=status, code=f"PLAT-20{status}", group=group)
