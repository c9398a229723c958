"""Figures of Matplotlib. The only module that imports it: as a library of ours, it has no folder of its own in ~.

It would keep its cache in ~/.cache, create ~/.config/matplotlib, and draw in the style that a person set up there.
"""

from typing import TYPE_CHECKING

from captioning.environment import set_for_children
from captioning.settings import read_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches."""
    set_for_children("MPLCONFIGDIR", str(read_settings().data_dir / "matplotlib"))
    from matplotlib.figure import Figure  # takes half a second; and only now does it read the variable

    return Figure(figsize=(width, height), layout="constrained")
