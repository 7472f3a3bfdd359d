"""The part of OData 4.01 that lists take: `$filter`, `$orderby`, `$select` (nutanix-v4 §4, §23 rule 17).

Supported: eq ne gt ge lt le, and or not, parentheses, in, startswith, endswith, contains, any() over
lists, `/` paths and schema-qualified enum literals. Everything else is refused, and so is a field the
list cannot be filtered by: a filter that is silently wrong would hide bugs of the client.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any

from simulator.clock import parse_stamp
from simulator.documents import Document
from simulator.errors import SchemaError

Predicate = Callable[[Document], bool]
Scope = Mapping[str, Any]

_TOKEN = re.compile(
    r"""\s*(?:(?P<enum>[A-Za-z][\w.]*'(?:[^']|'')*')|(?P<text>'(?:[^']|'')*')
    |(?P<moment>\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d))|(?P<number>-?\d+(?:\.\d+)?)
    |(?P<name>[A-Za-z_$][\w$]*(?:/[A-Za-z_$][\w$]*)*)|(?P<mark>[(),:/]))""",
    re.VERBOSE,
)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
}
_FUNCTIONS: dict[str, Callable[[str, str], bool]] = {
    "startswith": str.startswith,
    "endswith": str.endswith,
    "contains": str.__contains__,
}


def _bad(text: str) -> SchemaError:
    return SchemaError(f"The filter is not one this list understands: {text}", "$filter")


class _Parser:
    """Recursive descent; each method eats one production and returns a test of a scope."""

    def __init__(self, text: str, fields: Collection[str]) -> None:
        self._text, self._fields = text, fields
        self._variables: set[str] = set()
        self._tokens = self._split(text)
        self._at = 0

    @staticmethod
    def _split(text: str) -> list[tuple[str, str]]:
        tokens, at = [], 0
        while at < len(text.rstrip()):
            match = _TOKEN.match(text, at)
            if match is None:
                raise _bad(text)
            tokens.append((str(match.lastgroup), match[str(match.lastgroup)]))
            at = match.end()
        return tokens

    def parse(self) -> Callable[[Scope], bool]:
        test = self._either()
        if self._at != len(self._tokens):
            raise _bad(self._text)
        return test

    def _peek(self, ahead: int = 0) -> tuple[str, str]:
        index = self._at + ahead
        return self._tokens[index] if index < len(self._tokens) else ("end", "")

    def _next(self, value: str | None = None) -> tuple[str, str]:
        token = self._peek()
        if token[0] == "end" or (value is not None and token[1] != value):
            raise _bad(self._text)
        self._at += 1
        return token

    def _either(self) -> Callable[[Scope], bool]:
        tests = [self._both()]
        while self._peek() == ("name", "or"):
            self._next()
            tests.append(self._both())
        return lambda scope: any(test(scope) for test in tests)

    def _both(self) -> Callable[[Scope], bool]:
        tests = [self._term()]
        while self._peek() == ("name", "and"):
            self._next()
            tests.append(self._term())
        return lambda scope: all(test(scope) for test in tests)

    def _term(self) -> Callable[[Scope], bool]:
        kind, value = self._peek()
        if (kind, value) == ("name", "not"):
            self._next()
            inner = self._term()
            return lambda scope: not inner(scope)
        if value == "(":
            self._next()
            inner = self._either()
            self._next(")")
            return inner
        if self._peek(1)[1] == "(" and kind == "name":
            return self._any() if value.endswith("/any") else self._call()
        return self._comparison()

    def _call(self) -> Callable[[Scope], bool]:
        function = _FUNCTIONS.get(self._next()[1])
        if function is None:
            raise _bad(self._text)
        self._next("(")
        path = self._path()
        self._next(",")
        wanted = self._literal()
        self._next(")")
        return lambda scope: function(str(_value(scope, path) or ""), str(wanted))

    def _any(self) -> Callable[[Scope], bool]:
        path = self._checked(self._next()[1].removesuffix("/any"))
        self._next("(")
        variable = self._next()[1]
        self._next(":")
        self._variables.add(variable)
        inner = self._either()
        self._next(")")
        return lambda scope: any(
            inner({**scope, variable: item}) for item in _value(scope, path) or ()
        )

    def _comparison(self) -> Callable[[Scope], bool]:
        path = self._path()
        operator = self._next()[1]
        if operator == "in":
            wanted = self._literals()
            return lambda scope: _value(scope, path) in wanted
        compare = _COMPARE.get(operator)
        if compare is None:
            raise _bad(self._text)
        literal = self._literal()
        return lambda scope: _compared(compare, _value(scope, path), literal, operator)

    def _literals(self) -> list[Any]:
        self._next("(")
        found = [self._literal()]
        while self._peek()[1] == ",":
            self._next()
            found.append(self._literal())
        self._next(")")
        return found

    def _path(self) -> list[str]:
        kind, value = self._next()
        if kind != "name":
            raise _bad(self._text)
        return self._checked(value)

    def _checked(self, name: str) -> list[str]:
        path = name.split("/")
        if path[0] in self._variables or name in self._fields or path[0] in self._fields:
            return path
        raise SchemaError(f"This list cannot be filtered by {name!r}.", "$filter")

    def _literal(self) -> Any:
        kind, value = self._next()
        if kind in ("text", "enum"):
            return value[value.index("'") + 1 : -1].replace("''", "'")
        if kind == "moment":
            return parse_stamp(value)
        if kind == "number":
            return float(value) if "." in value else int(value)
        if kind == "name" and value in ("true", "false", "null"):
            return {"true": True, "false": False, "null": None}[value]
        raise _bad(self._text)


def _value(scope: Scope, path: list[str]) -> Any:
    value: Any = scope[path[0]] if path[0] in scope else scope[""]
    rest = path[1:] if path[0] in scope else path
    for name in rest:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _compared(compare: Callable[[Any, Any], bool], value: Any, literal: Any, operator: str) -> bool:
    if isinstance(literal, datetime) and isinstance(value, str):
        value = parse_stamp(value)
    if isinstance(value, list):  # a bare comparison with a list asks for membership
        return (literal in value) == (operator != "ne")
    if value is None or literal is None:
        return operator in ("eq", "ne") and compare(value, literal)
    try:
        return compare(value, literal)
    except TypeError as error:
        raise _bad(f"{value!r} cannot be compared with {literal!r}") from error


def parse_filter(text: str, fields: Collection[str]) -> Predicate:
    """A test of documents. SchemaError if the text or a field is not supported.

    `fields` holds full paths (`cluster/extId`) or first parts that allow everything below them.
    """
    test = _Parser(text, fields).parse()
    return lambda document: test({"": document})


def parse_order(text: str, fields: Collection[str]) -> Callable[[list[Document]], list[Document]]:
    """A sorter of documents; those without the field come first, as OData orders null."""
    keys: list[tuple[list[str], bool]] = []
    for part in text.split(","):
        words = part.split()
        if not words or words[0] not in fields or words[1:] not in ([], ["asc"], ["desc"]):
            raise SchemaError(f"This list cannot be ordered by {part.strip()!r}.", "$orderby")
        keys.append((words[0].split("/"), words[1:] == ["desc"]))

    def ordered(documents: list[Document]) -> list[Document]:
        result = list(documents)
        for path, is_descending in reversed(keys):
            result.sort(key=lambda d: _sortable(_value({"": d}, path)), reverse=is_descending)
        return result

    return ordered


def _sortable(value: Any) -> tuple[bool, Any]:
    return (value is not None, value if value is not None else 0)
