"""Text from outside, made safe to print."""


def printable(text: str) -> str:
    """Escape control characters: a file name or a decoder's message may hold anything, also terminal commands."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def count(number: int, singular: str, plural: str = "") -> str:
    """Return a number with its noun: `1 image`, `2 images`, `1 copy`, `2 copies`."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"
