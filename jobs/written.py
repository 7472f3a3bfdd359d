"""Values that people write as a word or two: parsed from their text in a model, dumped as their text."""

from __future__ import annotations

from typing import Any, Self

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class Written:
    """Base of such a value. `parse` raises ValueError, which says what is wrong with the text."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The value that the text says."""
        raise NotImplementedError

    @classmethod
    def _read(cls, value: object) -> Self:
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            raise ValueError("is written as text")  # noqa: TRY004 - what pydantic reports
        return cls.parse(value)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        del source, handler
        return core_schema.json_or_python_schema(
            json_schema=core_schema.no_info_after_validator_function(
                cls.parse, core_schema.str_schema()
            ),
            python_schema=core_schema.no_info_plain_validator_function(cls._read),
            serialization=core_schema.to_string_ser_schema(),
        )
