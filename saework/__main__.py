"""``python -m saework``: the commands, also where the script ``saework`` is not on the path."""

from __future__ import annotations

import sys

from saework.cli import main

if __name__ == "__main__":
    sys.exit(main())
