"""What a number, a switch or a choice may be, in words for the person who wrote another one."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import ValidationError
from pydantic.fields import FieldInfo

_NAMES = {int: "a whole number", float: "a number"}


def fault(error: ValidationError, fields: dict[str, FieldInfo]) -> str:
    """Return what is wrong with the value of the first field at fault, for example "write a number from 0 to 1"."""
    first = error.errors(include_url=False)[0]
    field = fields[str(first["loc"][0])]
    allowed = _allowed(field.annotation, field.metadata)
    if allowed and first["type"] != "value_error":  # a validator of ours
        return f"write {allowed}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}"


def _allowed(annotation: Any, metadata: Sequence[Any]) -> str:
    """Return the values that a field takes; empty for text and paths."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        *others, last = map(str, arguments)
        return f"{', '.join(others)} or {last}" if others else last
    if origin is Union and type(None) not in arguments:
        return " or ".join(_allowed(each, ()) for each in arguments)
    if origin is Annotated:
        return _allowed(arguments[0], arguments[1].metadata)
    if annotation is bool:
        return "true or false"
    number = _NAMES.get(annotation) if isinstance(annotation, type) else None
    return number + _bounds(metadata) if number else ""


def _bounds(metadata: Sequence[Any]) -> str:
    rules: dict[type, Any] = {type(rule): rule for rule in metadata}
    ge, gt, le, lt = (
        rules.get(bound) for bound in (annotated_types.Ge, annotated_types.Gt, annotated_types.Le, annotated_types.Lt)
    )
    least = f" from {ge.ge}" if ge else f" above {gt.gt}" if gt else ""
    if le:
        return f"{least} to {le.le}" if ge else f"{least}, at most {le.le}"
    return f"{least}, below {lt.lt}" if lt else f"{least} up" if ge else least
