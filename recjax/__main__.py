"""`python -m recjax`: the command, with the Python that runs it."""

import sys

from recjax.cli import main

if __name__ == "__main__":
    sys.exit(main())
