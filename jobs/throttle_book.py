"""Where throttle rules are kept: one live record beside the backups (Q7).

Every process that moves data to or from the repository sees the same rules, with or without a
Prefect server, and a change reaches transfers that run, because they look again every few seconds.
One record, so that one request reads them all and a reader sees the old rules or the new ones.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from pydantic import BaseModel, ConfigDict, ValidationError

from jobs.errors import RuleBuiltIn, ThrottleInvalid
from jobs.throttle_rules import PUBLIC_RULE, ThrottleRule, public_rule
from repository import DamagedObject, LiveRecords, UnsupportedFormat

KIND = "throttle"
_KEY = "rules"


class ThrottleSettings(BaseModel):
    """The rules of a repository, and where it lies."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: tuple[ThrottleRule, ...] = ()
    address: IPv4Address | IPv6Address | None = None
    """Of the machine that keeps the repository, where its URL does not say."""

    @property
    def public_rule(self) -> ThrottleRule:
        """The built-in rule, as it was adjusted if it was (Q8)."""
        adjusted = next((each for each in self.rules if each.is_built_in), None)
        return adjusted or public_rule()

    @property
    def all_rules(self) -> tuple[ThrottleRule, ...]:
        """Every rule, the built-in one among them, by name."""
        own = [each for each in self.rules if not each.is_built_in]
        return tuple(sorted([*own, self.public_rule], key=lambda each: each.name))


class RuleBook:
    """The throttle rules of one repository. Thread-safe; of two writers the last one wins."""

    def __init__(self, records: LiveRecords) -> None:
        self._records = records

    def read(self) -> ThrottleSettings:
        """The rules as they are now; raises `ThrottleInvalid` or the store's errors."""
        place = f"record {KIND}/{_KEY} of the repository"
        try:
            record = self._records.get(KIND, _KEY)
            return ThrottleSettings() if record is None else ThrottleSettings(**record)
        except (DamagedObject, UnsupportedFormat) as error:
            raise ThrottleInvalid(place, str(error)) from error
        except ValidationError as error:
            raise ThrottleInvalid(place, f"it is of another version: {error}") from error

    def put(self, rule: ThrottleRule) -> None:
        """Add the rule, or replace the one of its name; durable on return."""
        settings = self.read()
        others = [each for each in settings.rules if each.name != rule.name]
        rules = sorted([*others, rule], key=lambda each: each.name)
        self._write(settings.model_copy(update={"rules": tuple(rules)}))

    def remove(self, name: str) -> bool:
        """Remove the rule; False if there is none of that name, `RuleBuiltIn` if it has to stay."""
        if name == PUBLIC_RULE:
            raise RuleBuiltIn(name)
        settings = self.read()
        rules = tuple(each for each in settings.rules if each.name != name)
        if len(rules) == len(settings.rules):
            return False
        self._write(settings.model_copy(update={"rules": rules}))
        return True

    def place_at(self, address: IPv4Address | IPv6Address | None) -> None:
        """Say which machine keeps the repository, or that its URL says it."""
        self._write(self.read().model_copy(update={"address": address}))

    def _write(self, settings: ThrottleSettings) -> None:
        self._records.put(KIND, _KEY, settings.model_dump(mode="json"))


def parse_rule(fields: dict[str, object]) -> ThrottleRule:
    """A rule from fields; raises `ThrottleInvalid`, which names the field and what is wrong.

    Of the built-in rule, what the fields do not say stays as it is built in.
    """
    try:
        if fields.get("name") == PUBLIC_RULE:
            return public_rule(**fields)
        return ThrottleRule.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = first["msg"].removeprefix("Value error, ")
        field, _, rest = reason.partition(": ")
        if not first["loc"] and rest:
            raise ThrottleInvalid(field, rest) from error
        raise ThrottleInvalid(str(first["loc"][0]) if first["loc"] else "rule", reason) from error
