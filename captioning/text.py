"""Text that comes from outside, made fit to be shown."""


def printable(text: str) -> str:
    """Return text with control characters made visible: a file name, or what a decoder says, may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
