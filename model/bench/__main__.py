"""The command `python -m starloom.model.bench`."""

import sys

from starloom.model.bench.measuring import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
