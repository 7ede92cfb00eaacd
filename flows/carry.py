"""The process of a triggered run: `python -m starloom.flows.carry`, as a worker of Prefect starts it.

Prefect names the run in `PREFECT__FLOW_RUN_ID`, its deployment the recipe and the store (see `starloom.flows.deploying`). The process
ends with the worker that started it: a run whose worker was killed neither goes on unseen nor holds the store.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from uuid import UUID

PARENT_POLL_SECONDS = 0.5


def main() -> int:
    """Carry the run out; returns 0 if it ended well, 2 if there is none."""
    try:
        flow_run_id = UUID(os.environ.get("PREFECT__FLOW_RUN_ID", ""))
    except ValueError:
        print("starloom: PREFECT__FLOW_RUN_ID names no run\n  → a worker starts this; `starloom run RECIPE` runs a recipe", file=sys.stderr)
        return 2
    _end_with(os.getppid())
    from starloom.flows.prefect_flow import settle_prefect

    settle_prefect(logging="INFO")
    from starloom.flows.triggered import carry_out

    return carry_out(flow_run_id)


def _end_with(parent: int) -> None:
    """End this process as Ctrl-C would, when its parent is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="starloom-parent", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
