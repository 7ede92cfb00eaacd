"""The console as a process: `python -m starloom.console`, which `starloom serve` starts."""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starloom.console.settings import settings_of
from starloom.lineage.errors import StarloomError
from starloom.lineage.store import Store
from starloom.queries.places import prepare
from starloom.queries.questions import newest
from starloom.queries.rows import Rows

if TYPE_CHECKING:
    from starloom.console.settings import Settings


def main(argv: list[str] | None = None) -> int:
    """Serve the console until it is asked to end; returns 2 if its settings are refused."""
    parser = argparse.ArgumentParser(prog="python -m starloom.console", allow_abbrev=False)
    parser.add_argument("recipes", nargs="*", type=Path, metavar="RECIPE")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4300)
    parser.add_argument("--store", metavar="URL")
    try:
        serve(parser.parse_args(argv))
    except StarloomError as error:
        print(f"starloom: {error.message}\n  → {error.hint}", file=sys.stderr)
        return 2
    return 0


def serve(arguments: argparse.Namespace) -> None:
    """Serve the console.

    Raises:
        ConfigError: an address that others reach without a password, or no store.
    """
    import uvicorn

    from starloom.console.app import create_app

    settings = settings_of(arguments.recipes, arguments.store, arguments.host, arguments.port)
    app = create_app(settings)
    threading.Thread(target=_prepare, args=(settings,), daemon=True).start()
    uvicorn.run(app, host=arguments.host, port=arguments.port, **server_options(settings))


def server_options(settings: Settings) -> dict[str, Any]:
    """Return the options of uvicorn. By itself it would believe whatever a client on this machine says of its address."""
    proxies = {"proxy_headers": bool(settings.trusted_proxies), "forwarded_allow_ips": list(settings.trusted_proxies)}
    return {"log_level": "warning", "server_header": False, "timeout_graceful_shutdown": 0, **proxies}


def _prepare(settings: Settings) -> None:
    """Make what questions about the newest run of each store will look up, seconds for a million documents, before somebody asks."""
    for _, url in settings.stores:
        with contextlib.suppress(StarloomError, OSError):  # who asks is told
            store = Store.open(url, create=False)
            prepare(Rows(store), newest(store))


if __name__ == "__main__":
    sys.exit(main())
