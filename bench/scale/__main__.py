"""The command `python -m starloom.bench.scale`: how long near_dedup takes to decide, at a size that no corpus at hand has.

python -m starloom.bench.scale --documents 100000000 --scratch FOLDER [--workers N] [--memory-mb M] [--json]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from starloom.bench.scale.simulation import simulate

_MB = 1_000_000


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m starloom.bench.scale", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--part-documents", type=int, default=1_000_000, help="documents of a part (default %(default)s)")
    parser.add_argument("--scratch", type=Path, help="an existing folder with 450 bytes a document free; default: the system's")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory-mb", type=int, default=1000, help="near_dedup.memory_bytes, in MB (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="starloom-scale-", dir=options.scratch))
    try:
        told = simulate(options.documents, scratch, options.workers, options.memory_mb * _MB, options.part_documents)
    finally:
        shutil.rmtree(scratch)
    print(json.dumps(told, indent=2) if options.json else "\n".join(f"{name:<32} {value}" for name, value in told.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
