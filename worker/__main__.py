"""`python -m worker`: the same as the `worker` command."""

from worker.cli import main

if __name__ == "__main__":  # pool processes import this module again
    main()
