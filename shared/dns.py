"""The system's resolver, asked so that no search domain is tried. Its one side effect is a DNS query."""

import socket


def lookup(host: str) -> tuple[str, ...]:
    """All addresses of `host`, IPv6 and IPv4, in the system's order of preference, each once.

    A dotted name is asked with its final dot: "example.com" must not become "example.com.default.svc.cluster.local".
    Names that only this network knows are asked as they stand, since the hosts file and Docker's resolver know no
    final dot. May block for as long as the system's resolver likes. Raises OSError when there is no address.
    """
    local = "." not in host or host.endswith((".localhost", ".local", ".internal"))
    answers = socket.getaddrinfo(host if local else host + ".", None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(answer[4][0]) for answer in answers))
