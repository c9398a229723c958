"""Messages about wrong command lines: what is wrong with which value, and where the help is."""

import re

import typer
from pydantic import ValidationError

_FAULTS = {  # by pydantic's type of error; the names in braces are those of its context
    "int_parsing": "is not a whole number",
    "int_parsing_size": "is too large",
    "float_parsing": "is not a number",
    "string_unicode": "is not a number",
    "greater_than_equal": "is less than {ge}",
    "less_than_equal": "is more than {le}",
}


def usage_message(error: typer.TyperException) -> str:
    """Return the message about a wrong command line, with the value and the command whose help explains it."""
    if isinstance(error.__cause__, ValidationError):
        first = error.__cause__.errors()[0]
        fault = _FAULTS.get(first["type"], "")
        if fault:
            error.message = f"{str(first['input'])!r} {fault.format(**first.get('ctx', {}))}."
    message = error.format_message().replace("Value error, ", "")  # a prefix of pydantic's
    message = _with_remedy(message)
    context = getattr(error, "ctx", None)
    if context is None:
        return message
    joint = " See" if message.endswith("?") else "; see"
    return f"{message.rstrip('.')}{joint} `{context.command_path} -h`."


def _with_remedy(message: str) -> str:
    """Return a message about words that a shell took apart, or took for an option, with what to do."""
    if "unexpected extra argument" in message:
        return f"{message.rstrip('.')}: put words that belong together in quotes"
    word = re.match(r"No such option: (-\w+)", message)
    if word is not None and not word[1].startswith("--"):
        return f"{message.rstrip('.')}: if it is no option, put -- before it"
    return message
