"""Settings of the console: the stores it shows, and who may use it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starloom.lineage.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
SESSION_HOURS = 12


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
    prefect_url: str | None = None
    """Prefect's API."""
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
