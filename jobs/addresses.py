"""Ranges of IP addresses, as a throttle rule names the two ends of a path (Q1, Q8). Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Self, TypeAlias

from jobs.written import Written

Address: TypeAlias = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class AddressRange(Written):
    """`10.1.0.0/16`, `10.1.0.5`, `10.1.0.5-10.1.0.90`, `any`, `private` or `public`.

    `private` are the addresses that no router of the internet knows, loopback among them; `public`
    are all others (Q8).
    """

    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError, which says what is wrong."""
        word = text.strip().lower()
        if word not in ("any", "private", "public"):
            _bounds(word)
        return cls(word)

    def holds(self, address: Address) -> bool:
        """Whether the address lies in the range."""
        if self.text == "any":
            return True
        if self.text in ("private", "public"):
            return address.is_global == (self.text == "public")
        first, last = _bounds(self.text)
        return first.version == address.version and int(first) <= int(address) <= int(last)

    def __str__(self) -> str:
        return self.text


def _bounds(text: str) -> tuple[Address, Address]:
    """First and last address of the range."""
    try:
        if "/" in text:
            network = ipaddress.ip_network(text)
            return network[0], network[-1]
        first, is_range, last = text.partition("-")
        low = ipaddress.ip_address(first.strip())
        high = ipaddress.ip_address(last.strip()) if is_range else low
    except ValueError as error:
        raise ValueError(f"{text!r} is no address, network or range of addresses") from error
    if low.version != high.version or int(low) > int(high):
        raise ValueError(f"{text!r} runs backwards; write the lower address first")
    return low, high
