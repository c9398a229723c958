"""Which addresses are connected to."""

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.errors import AddressRefused
from captioning.remote.addresses import AddressGuard

REFUSED = (
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1",
    "fd00:ec2::254", "ff02::1", "fec0::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a9fe:a9fe::1", "::127.0.0.1", "example.com", "",
)  # fmt: skip
PUBLIC = ("93.184.215.14", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "100.128.0.1")


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not AddressGuard().is_allowed(address)
    with pytest.raises(AddressRefused):
        AddressGuard().new_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)))


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_connected_to(address: str) -> None:
    assert AddressGuard().is_allowed(address)


def test_networks_of_the_settings_are_allowed_and_others_are_not() -> None:
    guard = AddressGuard([ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8")])
    assert guard.is_allowed("10.1.2.3")
    assert guard.is_allowed("::ffff:10.1.2.3")
    assert guard.is_allowed("fd00::1")
    assert not guard.is_allowed("10.2.0.1")
    assert not guard.is_allowed("169.254.169.254")


@given(st.ip_addresses(v=4))
def test_an_address_in_an_ipv6_address_is_judged_like_itself(address: ipaddress.IPv4Address) -> None:
    guard = AddressGuard()
    allowed = guard.is_allowed(str(address))
    assert guard.is_allowed(f"::ffff:{address}") == allowed
    assert guard.is_allowed(str(ipaddress.IPv6Address((0x64FF9B << 96) | int(address)))) == allowed
