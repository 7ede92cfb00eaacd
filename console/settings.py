"""Settings of the console: the stores it shows, and who may use it."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starloom.lineage.errors import ConfigError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
SESSION_HOURS = 12
WORDS = ("viewer_password", "viewer_token", "operator_password", "operator_token", "secret")
"""Settings that are secrets: read from the environment, or from files that it names, and never from the command line."""


@dataclass(frozen=True)
class Settings:
    """Settings of one console. Off a loopback address it needs a password or a token.

    Raises:
        ConfigError: without a store; with an address that others reach and nothing that keeps them out; with a viewer's password or token
            that is also the operator's.
    """

    stores: tuple[tuple[str, str], ...]
    """Name → URL of each store; the first is shown where none is named."""
    recipes: tuple[Path, ...] = ()
    run_store: str | None = None
    """URL of the store of every run that is started here; by default that of its recipe."""
    prefect_url: str | None = None
    """Prefect's API."""
    prefect_auth: str | None = field(default=None, repr=False)
    """Of its basic auth: user:password."""
    prefect_ui: str | None = None
    """Prefect's pages."""
    viewer_password: str | None = field(default=None, repr=False)
    viewer_token: str | None = field(default=None, repr=False)
    operator_password: str | None = field(default=None, repr=False)
    operator_token: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)
    """Signs sessions; without it they end when the console does."""
    host: str = "127.0.0.1"
    port: int = 8765
    allowed_hosts: tuple[str, ...] = ()
    """Names, beyond those that follow from `host`, under which a browser may ask for pages."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of proxies whose word on the client's address and scheme counts. Anybody else may write those headers."""
    session_hours: float = SESSION_HOURS

    def __post_init__(self) -> None:
        if not self.stores:
            raise ConfigError("the console has no store to show", hint="name one: its folder or URL")
        for what in ("password", "token"):
            viewer, operator = getattr(self, f"viewer_{what}"), getattr(self, f"operator_{what}")
            if "" in (viewer, operator):
                raise ConfigError(f"a {what} of the console is empty", hint=f"give a {what}, or leave it out")
            if viewer is not None and viewer == operator:
                raise ConfigError(f"viewers and operators have one {what}, so every viewer would be an operator", hint="choose two")
        for proxy in self.trusted_proxies:
            _check_network(proxy)
        if not self.needs_login and not is_loopback(self.host):
            raise ConfigError(
                f"the console would let everybody in who reaches {self.host}",
                hint="give a password or token for viewers and operators, or bind to 127.0.0.1",
            )

    @property
    def needs_login(self) -> bool:
        """True where people must say who they are."""
        return any((self.viewer_password, self.viewer_token, self.operator_password, self.operator_token))

    def serves(self, name: str) -> bool:
        """Return whether a browser may ask for pages under this host name, given without port.

        A page of another site can make a browser send requests here under the other site's name (DNS rebinding), but not under a literal
        address; so these are allowed where the console is bound to more than loopback.
        """
        wanted = name.strip("[]").lower()
        if wanted in LOOPBACK_NAMES or wanted in {self.host.lower(), *(host.lower() for host in self.allowed_hosts)}:
            return True
        return not is_loopback(self.host) and _address(wanted) is not None


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:  # a name
        return None


def _check_network(proxy: str) -> None:
    try:
        ipaddress.ip_network(proxy)
    except ValueError as error:
        raise ConfigError(
            f"STARLOOM_TRUSTED_PROXIES names {proxy!r}, which is no address or network", hint="give addresses: 127.0.0.1, 10.0.0.0/24"
        ) from error


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
        allowed_hosts=_listed("STARLOOM_ALLOWED_HOSTS"),
        trusted_proxies=_listed("STARLOOM_TRUSTED_PROXIES"),
        **secrets,
    )


def _listed(name: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in os.environ.get(name, "").split(",") if word.strip())


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


def operator_secret() -> str | None:
    """Return the operator's password or token of the environment."""
    return _secret("STARLOOM_OPERATOR_PASSWORD") or _secret("STARLOOM_OPERATOR_TOKEN")


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
