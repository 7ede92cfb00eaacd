"""Tell Prefect's server what becomes of a run whose worker was lost; run once after each start, it changes what it made before.

Prefect by itself leaves such a run "Running" for ever. Two automations, which Prefect's pages show and can pause:

- a run of which no heartbeat has come for a while is marked as crashed;
- a crashed run of the work pool is put in line again, at most until its third try. What it had finished is in the store:
  it goes on from there.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import urllib.error
import urllib.request
from typing import Any

SILENT_SECONDS = 90
"""Three heartbeats of the workers (PREFECT_FLOWS_HEARTBEAT_FREQUENCY)."""
TRIES = 3
ENDS = ["prefect.flow-run.Completed", "prefect.flow-run.Failed", "prefect.flow-run.Cancelled", "prefect.flow-run.Crashed"]


def automations(pool: str) -> list[dict[str, Any]]:
    """Return both automations, as Prefect's API takes them."""
    silent = {
        "type": "event",
        "posture": "Proactive",
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "for_each": ["prefect.resource.id"],
        "after": ["prefect.flow-run.heartbeat"],
        "expect": ["prefect.flow-run.heartbeat", *ENDS],
        "threshold": 1,
        "within": SILENT_SECONDS,
    }
    crashed = {
        "type": "event",
        "posture": "Reactive",
        "match": {"prefect.resource.id": "prefect.flow-run.*", "prefect.run-count": [str(count) for count in range(1, TRIES)]},
        "match_related": {"prefect.resource.role": "work-pool", "prefect.resource.name": pool},
        "for_each": ["prefect.resource.id"],
        "expect": ["prefect.flow-run.Crashed"],
        "threshold": 1,
    }
    return [
        {
            "name": f"{pool}: silent runs have crashed",
            "description": f"A run that has sent no heartbeat for {SILENT_SECONDS} s has lost its worker.",
            "trigger": silent,
            "actions": [{"type": "change-flow-run-state", "state": "CRASHED", "message": "its worker was lost: no heartbeat came from it"}],
        },
        {
            "name": f"{pool}: crashed runs are tried again",
            "description": f"At most {TRIES} tries; finished parts are in the store.",
            "trigger": crashed,
            "actions": [
                {"type": "change-flow-run-state", "state": "SCHEDULED", "name": "AwaitingRetry", "message": "in line again after a crash"}
            ],
        },
    ]


def call(path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
    """Call Prefect's API."""
    headers = {"Content-Type": "application/json"}
    if auth := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = "Basic " + base64.b64encode(auth.encode()).decode()
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(os.environ["PREFECT_API_URL"].rstrip("/") + path, data, headers, method=method)  # noqa: S310 - ours
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - ours
        told = answer.read()
    return json.loads(told) if told else None


def main(words: list[str]) -> int:
    """Make or replace the automations of the pool named; return the exit code."""
    if len(words) != 1 or not os.environ.get("PREFECT_API_URL"):
        print("usage: PREFECT_API_URL=http://…/api recovery.py POOL", file=sys.stderr)
        return 1
    try:
        there = {told["name"]: told["id"] for told in call("/automations/filter", {})}
        for automation in automations(words[0]):
            if automation["name"] in there:
                call(f"/automations/{there[automation['name']]}", automation, "PUT")
            else:
                call("/automations/", automation)
            print(f"automation: {automation['name']}")
    except urllib.error.HTTPError as error:
        print(f"Prefect's server refused: {error}: {error.read().decode(errors='replace')[:500]}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"Prefect's server at {os.environ['PREFECT_API_URL']} does not answer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
