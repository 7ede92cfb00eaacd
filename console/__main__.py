"""The console as a process: `python -m starloom.console`, which `starloom serve` starts."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from starloom.console.settings import Settings
from starloom.lineage.errors import ConfigError, StarloomError

WORDS = ("viewer_password", "viewer_token", "operator_password", "operator_token", "secret")
"""Settings that are secrets: read from the environment, or from files that it names, and never from the command line."""


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

    app = create_app(settings_of(arguments.recipes, arguments.store, arguments.host, arguments.port))
    uvicorn.run(app, host=arguments.host, port=arguments.port, log_level="warning", server_header=False, timeout_graceful_shutdown=0)


def settings_of(recipes: list[Path], store: str | None, host: str, port: int) -> Settings:
    """Return the settings of a console, with the secrets of the environment.

    Raises:
        ConfigError: they do not go together.
    """
    api = os.environ.get("PREFECT_API_URL")
    secrets: dict[str, Any] = {word: _secret(f"STARLOOM_{word.upper()}") for word in WORDS}
    return Settings(
        stores=_stores(recipes, store),
        recipes=tuple(path.absolute() for path in recipes),
        run_store=store,
        prefect_url=api,
        prefect_auth=os.environ.get("PREFECT_API_AUTH_STRING"),
        prefect_ui=os.environ.get("STARLOOM_PREFECT_UI_URL") or (api.removesuffix("/api") if api else None),
        host=host,
        port=port,
        allowed_hosts=tuple(name.strip() for name in os.environ.get("STARLOOM_ALLOWED_HOSTS", "").split(",") if name.strip()),
        **secrets,
    )


def _stores(recipes: list[Path], store: str | None) -> tuple[tuple[str, str], ...]:
    """Return name → URL of the stores of all recipes, made if they are not there: a console may be opened before the first run."""
    from starloom.flows.recipe import load
    from starloom.flows.run import store_of
    from starloom.lineage.store import Store

    urls = [store] if store else list(dict.fromkeys(store_of(load(path)) for path in recipes))
    found: dict[str, str] = {}
    for url in urls:
        short = Path(url).parent.name if Path(url).name == ".starloom" else Path(url).name
        name = next(name for number in range(1, len(urls) + 2) if (name := short if number == 1 else f"{short}-{number}") not in found)
        found[name or "store"] = url
        Store.open(url).make()
    return tuple(found.items())


def _secret(name: str) -> str | None:
    """Return a secret of the environment, or of the file that NAME_FILE names.

    Raises:
        ConfigError: the file cannot be read.
    """
    place = os.environ.get(f"{name}_FILE")
    if not place:
        return os.environ.get(name) or None
    try:
        return Path(place).read_text(encoding="utf-8").strip() or None
    except OSError as error:
        raise ConfigError(f"{name}_FILE names {place}, which cannot be read: {error.strerror}", hint="mount the secret there") from error


if __name__ == "__main__":
    sys.exit(main())
