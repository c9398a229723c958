"""A decode process on a system that cannot confine it."""

from captioning.decoding import child
from captioning.decoding.confinement import Confinement


def main() -> None:
    """Run the decode process."""
    child.main(Confinement())
