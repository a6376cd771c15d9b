"""What the parts are told of this host."""

import socket

import pytest

from shared.assembly import is_local


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1", True), ("::1", True), ("198.51.100.7", False), ("2001:db8::7", False), ("nonsense", False)],
)
def test_loopback_is_of_this_host_and_a_foreign_address_is_not(address: str, local: bool) -> None:
    if ":" in address and local and not _has_ipv6():
        pytest.skip("this host has no IPv6")
    assert is_local(address) is local


def test_the_address_of_an_interface_is_of_this_host() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.7", 9))
        except OSError:
            pytest.skip("this host has only loopback")
        assert is_local(probe.getsockname()[0])


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
