"""``python -m benchmarks``."""

import sys

from benchmarks.run import exit_status, main

if __name__ == "__main__":
    sys.exit(exit_status(main))
