"""Limit of wrong passwords and tokens: ten a minute from one address, however many come at once."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict, deque

WRONG_A_MINUTE = 10
KEPT_ADDRESSES = 10_000
"""Addresses that are remembered, those seen last: memory is bounded, and none is forgotten because another one tries."""
_MINUTE = 60.0
_IPV6_PREFIX = 64
"""Bits of an IPv6 address that are one customer's; the others are theirs to choose."""


class Tries:
    """A count of wrong passwords and tokens by address. A try counts as wrong from its beginning, so that many at once are no way round."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, client: str) -> float | None:
        """Begin a try of an address; returns its mark for `was_right`, or None where it has had its wrong ones of this minute."""
        now, name = time.monotonic(), network(client)
        with self._lock:
            tries = self._wrong.setdefault(name, deque())
            self._wrong.move_to_end(name)
            while tries and tries[0] <= now - _MINUTE:
                tries.popleft()
            if len(tries) >= WRONG_A_MINUTE:
                return None
            tries.append(now)
            while len(self._wrong) > KEPT_ADDRESSES:
                self._wrong.popitem(last=False)
        return now

    def was_right(self, client: str, mark: float) -> None:
        """Take a try back that was a right one."""
        name = network(client)
        with self._lock:
            tries = self._wrong.get(name)
            if tries and mark in tries:
                tries.remove(mark)
            if tries is not None and not tries:
                del self._wrong[name]


def network(client: str) -> str:
    """Return what counts as one address: itself, or of IPv6 the network of a customer."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))
