"""What a number, a switch or a choice may be, in words for the person who wrote another one."""

from typing import Any, Literal, get_args, get_origin

import annotated_types
from pydantic import ValidationError
from pydantic.fields import FieldInfo

_NAMES = {int: "a whole number", float: "a number"}


def fault(error: ValidationError, fields: dict[str, FieldInfo]) -> str:
    """Return what is wrong with the value of the first field at fault, for example "write a number from 0 to 1"."""
    first = error.errors(include_url=False)[0]
    allowed = _allowed(fields[str(first["loc"][0])])
    if allowed and first["type"] != "value_error":  # a validator of ours
        return f"write {allowed}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}"


def _allowed(field: FieldInfo) -> str:
    """Return the values that a field takes; empty for text and paths."""
    if get_origin(field.annotation) is Literal:
        *others, last = map(str, get_args(field.annotation))
        return f"{', '.join(others)} or {last}"
    if field.annotation is bool:
        return "true or false"
    kind = _NAMES.get(field.annotation) if isinstance(field.annotation, type) else None
    return kind + _bounds(field) if kind else ""


def _bounds(field: FieldInfo) -> str:
    rules: dict[type, Any] = {type(rule): rule for rule in field.metadata}
    ge, gt, le, lt = (
        rules.get(bound) for bound in (annotated_types.Ge, annotated_types.Gt, annotated_types.Le, annotated_types.Lt)
    )
    least = f" from {ge.ge}" if ge else f" above {gt.gt}" if gt else ""
    if le:
        return f"{least} to {le.le}" if ge else f"{least}, at most {le.le}"
    return f"{least}, below {lt.lt}" if lt else f"{least} up" if ge else least
