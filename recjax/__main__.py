"""`recjax` and `python -m recjax`: the command, which obeys signals before anything is imported."""

import sys

from recjax.signals import Stopped, stopping


def main() -> int:
    """Runs the command; returns the exit status."""
    try:
        with stopping() as stop, stop.at_once():
            from recjax.cli import main as run
    except Stopped as stopped:
        print(f"recjax: stopped by {stopped}", file=sys.stderr)
        return stopped.status
    return run()


if __name__ == "__main__":
    sys.exit(main())
