"""``python -m nomadiff`` is the same as ``nomadiff``."""

import sys

from nomadiff.cli import main

if __name__ == "__main__":  # worker processes import this module too
    sys.exit(main())
