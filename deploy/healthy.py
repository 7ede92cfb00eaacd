"""Tell whether a service does its work: exit 0 if so, else 1 with the reason. Needs nothing but Python.

healthy.py http://127.0.0.1:4300/healthz   the address answers 200
healthy.py tcp://127.0.0.1:8786            something listens there
healthy.py pool:starloom                   Prefect's server, at PREFECT_API_URL, hears from a worker of this pool; of this host, if the
                                           workers' names hold their hosts'
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

TIMEOUT_SECONDS = 4


class UnhealthyError(Exception):
    """Fault that a health check found."""


def check(target: str) -> None:
    """Raise UnhealthyError, with the reason, unless the target answers as it should."""
    scheme, _, rest = target.partition(":")
    if scheme == "pool":
        _check_pool(rest)
    elif scheme == "tcp":
        _check_port(target)
    elif scheme in {"http", "https"}:
        _ask(urllib.request.Request(target))  # noqa: S310 - the scheme is one of two
    else:
        raise UnhealthyError(f"{target!r} is no address that can be checked; use http://…, tcp://HOST:PORT or pool:NAME")


def _check_port(target: str) -> None:
    address = urllib.parse.urlsplit(target)
    try:
        socket.create_connection((address.hostname or "", address.port or 0), TIMEOUT_SECONDS).close()
    except OSError as error:
        raise UnhealthyError(f"nothing answers at {target}: {error}") from error


def _check_pool(name: str) -> None:
    api = os.environ.get("PREFECT_API_URL")
    if not api:
        raise UnhealthyError("PREFECT_API_URL is not set; it names the server that workers report to")
    headers = {"Content-Type": "application/json"}
    if auth := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = "Basic " + base64.b64encode(auth.encode()).decode()
    url = f"{api.rstrip('/')}/work_pools/{urllib.parse.quote(name)}/workers/filter"
    workers: list[dict[str, Any]] = json.loads(_ask(urllib.request.Request(url, b"{}", headers)))  # noqa: S310 - an address of ours
    ours = [worker for worker in workers if socket.gethostname() in worker["name"]] or workers
    if not any(worker["status"] == "ONLINE" for worker in ours):
        raise UnhealthyError(f"none of {len(ours)} workers of the pool {name} has sent a heartbeat lately")


def _ask(request: urllib.request.Request) -> bytes:
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - an address of ours
            body: bytes = answer.read()
            return body
    except (OSError, ValueError) as error:
        raise UnhealthyError(f"{request.full_url} does not answer as it should: {error}") from error


def main(words: list[str]) -> int:
    """Check the one target named; return the exit code."""
    if len(words) != 1:
        print(__doc__, file=sys.stderr)
        return 1
    try:
        check(words[0])
    except UnhealthyError as reason:
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
