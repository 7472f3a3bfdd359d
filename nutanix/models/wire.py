"""The base of every model that comes off the wire (`nutanix-v4 §5`, `§6`).

Fields are snake_case here and camelCase there. Unknown fields are ignored, because newer servers
send more. Enumerations are plain strings: every one of them may grow, and `$UNKNOWN` really occurs.
Ids are opaque strings: real ones break RFC 4122.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic.alias_generators import to_camel


class WireModel(BaseModel):
    """A frozen object of the API."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True
    )


class Reference(WireModel):
    """`{"extId": ...}`, the API's way to point at another object."""

    ext_id: str


def _pick(key: str) -> Callable[[Any], Any]:
    def pick(value: Any) -> Any:
        return value.get(key) if isinstance(value, dict) else value

    return pick


def _empty_if_null(value: Any) -> Any:
    return () if value is None else value


ReferencedId = Annotated[str | None, BeforeValidator(_pick("extId"))]
"""The id inside a reference object, or `None`."""

ManyOf = BeforeValidator(_empty_if_null)
"""A list that servers omit or send as null when it is empty."""


def typed(object_type: str, **fields: Any) -> dict[str, Any]:
    """A body object with its discriminator, without the fields that are `None` (`nutanix-v4 §6`)."""
    present = {name: value for name, value in fields.items() if value is not None}
    return {"$objectType": object_type, **present}
