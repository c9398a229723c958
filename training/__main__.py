"""`python -m training`: the same as `training`."""

from training.cli import main

main()
