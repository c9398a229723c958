"""`python -m worker`, for those who start one without the console script."""

from worker.cli import main

if __name__ == "__main__":  # pool processes are spawned and import this again
    main()
