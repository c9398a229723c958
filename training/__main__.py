"""`training` on the command line. Nothing is imported before it can be interrupted politely."""

import sys


def main() -> None:
    """Run `training`."""
    try:
        from training.cli import main as run
    except KeyboardInterrupt:
        print("training: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    run()


if __name__ == "__main__":
    main()
