"""The process of a peer: runs a driver's `run` for each line of JSON on standard input, and answers with one.

Run as a script under the peer's interpreter; the driver's file is its argument. What peers print goes to standard error.
"""

from __future__ import annotations

import json
import os
import runpy
import sys


def main() -> None:
    """Serve until standard input closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run = runpy.run_path(sys.argv[1])["run"]
    for line in sys.stdin:
        try:
            answer = {"result": run(**json.loads(line))}
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a peer raises is told to who asked
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":  # the workers that a peer spawns import this file too
    main()
