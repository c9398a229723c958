"""Which addresses are connected to: public ones, and those that the settings allow.

The check is where a socket is made, so it sees the very address that is connected to: after the look-up of a name, for
every redirect, and for an address that is written into a URL.
"""

import ipaddress
import socket
from collections.abc import Iterable
from typing import Any

from captioning.environment import PREFIX
from captioning.errors import AddressRefused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class AddressGuard:
    """Makes sockets to allowed addresses only."""

    def __init__(self, allowed: Iterable[Network] = ()) -> None:
        self._allowed = tuple(allowed)

    def new_socket(self, info: Any) -> socket.socket:
        """Return a socket for an address as `socket.getaddrinfo` describes it. Raises AddressRefused."""
        family, kind, protocol, _, where = info
        if not self.is_allowed(where[0]):
            raise AddressRefused(
                f"its host leads to {where[0]}, which is not public; {PREFIX}REMOTE_NETWORKS allows networks"
            )
        return socket.socket(family, kind, protocol)

    def is_allowed(self, address: str) -> bool:
        """Return whether an address may be connected to, with all addresses that it contains."""
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        return all(_is_public(one) or self._is_listed(one) for one in (found, *_contained(found)))

    def _is_listed(self, address: Address) -> bool:
        return any(address in network for network in self._allowed)


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None or address in _NAT64:
            return True  # the address that it contains decides
        if address.is_site_local:
            return False
    special = address.is_multicast or address.is_reserved or address.is_unspecified or address.is_link_local
    return address.is_global and not special


def _contained(address: Address) -> list[Address]:
    """Return the IPv4 addresses to which an IPv6 address leads."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found: list[Address | None] = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [one for one in found if one is not None]
