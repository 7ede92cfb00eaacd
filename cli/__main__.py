"""`python -m cli` is `starloom`."""

import sys

from cli import main

sys.exit(main())
