"""`worker` on the command line. Nothing is imported before it can be interrupted politely."""

import sys


def main() -> None:
    """Run `worker`."""
    try:
        from worker.cli import main as run
    except KeyboardInterrupt:
        print("worker: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    run()


if __name__ == "__main__":  # pool processes are spawned and import this again
    main()
