"""May this URL, may these resolved addresses be called? The SSRF guard. Pure.

Asked twice: when a webhook is saved, for quick feedback, and before every attempt, for safety: between the two a name
may start to lead elsewhere. `check_addresses` is the judge; what a URL looks like decides nothing.
"""

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from shared.errors import FieldError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL_LENGTH = 2048
DENIED_PORTS = frozenset({4369, 5432, 5672, 6379, 15672, 25672})
"""Databases and brokers: what listens there is never a webhook's endpoint."""

NOT_A_HOST = "host must be a canonical IP address or DNS name"
NOT_PUBLIC = "the host leads to an address that is not public; an operator can allow its network by HARI_EGRESS_ALLOW"
NEVER = "the host leads to an address that may never be called (metadata service, multicast, IPv6 transition)"
OWN = "the URL leads back to HARI itself; a webhook must not call its own sender"
PLAIN_HTTP = "http:// may lead only to networks in HARI_EGRESS_ALLOW (anywhere with HARI_ALLOW_HTTP=1); use https://"
LOCAL_NAME = "a name without a public domain may lead only to networks in HARI_EGRESS_ALLOW; use a full public name"
NO_ADDRESS = "the host name does not resolve"


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


# `ipaddress.is_global` calls several of these global (seen on Python 3.11.7), so the tables are our own: the union of
# what hook0, svix and smokescreen deny. For IPv6 the other way round: of 2000::/3 all but these, and nothing else.
_FORBIDDEN_V4 = _networks(
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
    *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
)
_PUBLIC_V6 = IPv6Network("2000::/3")
_FORBIDDEN_V6 = _networks("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
_NAT64 = IPv6Network("64:ff9b::/96")
_LOOPBACK_V6 = IPv6Address("::1")
_EMBEDS_V4 = IPv6Network("::/8")

# Refused even when HARI_EGRESS_ALLOW covers them: the clouds' metadata services (AWS, Google and OpenStack in
# 169.254/16, fd00:ec2::/32 and fd20:ce::254, Azure, Alibaba, Oracle), "this host", multicast, and the IPv6 ranges that
# carry an IPv4 address inside, which would lead around the IPv4 table.
_NEVER = _networks(
    *("0.0.0.0/8", "100.100.100.200/32", "168.63.129.16/32", "169.254.0.0/16", "192.0.0.192/32", "224.0.0.0/4"),
    *("240.0.0.0/4", "64:ff9b:1::/48", "2001::/32", "2002::/16", "fd00:ec2::/32", "fd20:ce::254/128", "fe80::/10"),
    *("fec0::/10", "ff00::/8"),
)


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that our own parser took apart; `url` is put together again from the parts, so that no other parser can
    read it differently."""

    scheme: str
    host: str
    """Lower case, ASCII; an IPv6 address stands without brackets."""
    port: int
    path: str
    """Path and query, as they go on the request line."""
    is_ip: bool = False
    local_name: bool = False
    """One label, or under localhost, local or internal: a name that only this network knows."""

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


@dataclass(frozen=True, slots=True)
class EgressRules:
    """What the operator permits. `own`: (host or address, port) pairs where HARI itself listens, by bind address and
    by public URL; a bind to 0.0.0.0 or :: stands for every loopback address, and for this host's other addresses that
    `allow` does not cover. `is_local`: is this an address of the host?"""

    allow: tuple[Network, ...] = ()
    allow_http: bool = False
    own: frozenset[tuple[str, int]] = frozenset()
    denied_ports: frozenset[int] = DENIED_PORTS
    is_local: Callable[[str], bool] = lambda _address: False


_AUTHORITY = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>[^#]*)(?P<fragment>#)?")
_HOST_PORT = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>[^:]*))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LOCAL_DOMAINS = ("localhost", "local", "internal")


def parse_url(text: str) -> Target | list[str]:
    """The parts of `text`, or what is wrong with it, in words for the person who typed it.

    Stricter than RFC 3986 and WHATWG, where parsers disagree with one another. International names are taken in
    their ASCII form (xn--…) only: the standard library converts by IDNA 2003, browsers by a later one, and the two
    lead to different hosts.
    """
    if len(text) > MAX_URL_LENGTH:
        return [f"the URL is longer than {MAX_URL_LENGTH:,} characters"]
    if any(character <= " " or character == "\x7f" or character.isspace() or character == "\\" for character in text):
        return ["the URL must not hold spaces, line breaks, control characters or backslashes"]
    match = _AUTHORITY.match(text)
    if match is None:
        return ["the URL must start with https://"]
    scheme, authority, path = match["scheme"].lower(), match["authority"], match["rest"]
    problems = []
    if scheme not in ("http", "https"):
        problems.append("the URL must start with https://")
    if match["fragment"]:
        problems.append("the URL must not have a fragment (#…): it would never be sent")
    if not path.isascii():
        problems.append("percent-encode every character of path and query that is not ASCII")
    if "@" in authority:
        return [*problems, "the URL must not hold a user name or password; use a header or the secret"]
    parts = _HOST_PORT.fullmatch(authority)
    if parts is None:
        return [*problems, NOT_A_HOST]
    port = _port(parts["port"], scheme)
    if port is None:
        problems.append("port must be a number from 1 to 65535")
    host, is_ip = _host(parts["host"])
    if host is None:
        problems.append(NOT_A_HOST)
    if problems or host is None or port is None:
        return problems
    path = path if path.startswith("/") else "/" + path
    labels = host.split(".")
    local = not is_ip and (len(labels) == 1 or labels[-1] in _LOCAL_DOMAINS)
    return Target(scheme, host, port, path, is_ip, local)


def _port(text: str | None, scheme: str) -> int | None:
    if text is None:
        return 443 if scheme == "https" else 80
    if _PORT.fullmatch(text) is None or int(text) > 65535:
        return None
    return int(text)


def _host(text: str) -> tuple[str | None, bool]:
    """(host in its one spelling, is it an address); (None, …) when it has more than one reading."""
    host = text.lower()
    if not text.isascii():
        return None, False
    if host.startswith("["):
        try:
            return (None, True) if "%" in host else (str(IPv6Address(host[1:-1])), True)
        except ValueError:
            return None, True
    labels = host.split(".")
    if _NUMERIC_LABEL.fullmatch(labels[-1]):  # WHATWG: a host that ends in a number is an IPv4 address or an error
        try:
            return str(IPv4Address(host)), True
        except ValueError:
            return None, True
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return None, False
    return host, False


def check_addresses(target: Target, addresses: Sequence[str], rules: EgressRules) -> str | None:
    """Why `target` must not be called at `addresses`, or None. Names no address: the reason is shown to users.

    One forbidden address among several is enough (the caller cannot choose which one is tried), and so is none at all.
    """
    problem = check_target(target, rules)
    if problem is not None:
        return problem
    if not addresses:
        return NO_ADDRESS
    found = [_address(text) for text in addresses]
    for address in found:
        if address is None or _never(address):
            return NEVER
        if _own(address, target.port, rules):
            return OWN
    allowed = all(address is not None and _listed(address, rules.allow) for address in found)
    if target.local_name and not allowed:
        return LOCAL_NAME
    if target.scheme == "http" and not allowed and not rules.allow_http:
        return PLAIN_HTTP
    if any(address is None or not (_public(address) or _listed(address, rules.allow)) for address in found):
        return NOT_PUBLIC
    return None


def check_target(target: Target, rules: EgressRules) -> str | None:
    """Why `target` may be called at no address whatever, or None."""
    if target.port < 1024 and target.port not in (80, 443):
        return f"port {target.port} may not be called; use 443, 80 or a port from 1024 up"
    if target.port in rules.denied_ports:
        return f"port {target.port} may not be called: it belongs to a database or broker"
    if (target.host, target.port) in rules.own:
        return OWN
    if target.scheme == "http" and not rules.allow_http and not rules.allow:
        return PLAIN_HTTP
    if target.local_name and not rules.allow:
        return LOCAL_NAME
    return None


def _address(text: str) -> Address | None:
    """The address meant: for one behind NAT64 the IPv4 address that the gateway would call."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _listed(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _never(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address in _EMBEDS_V4:
        return address != _LOOPBACK_V6
    return _listed(address, _NEVER)


def _public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not _listed(address, _FORBIDDEN_V4)
    return address in _PUBLIC_V6 and not _listed(address, _FORBIDDEN_V6)


def _own(address: Address, port: int, rules: EgressRules) -> bool:
    listeners = [_address(host) for host, own_port in rules.own if own_port == port]
    anywhere = any(own is not None and own.is_unspecified for own in listeners)
    if address in listeners or not anywhere:
        return address in listeners
    return address.is_loopback or (not _listed(address, rules.allow) and rules.is_local(str(address)))


def check_at_save(
    url: str, resolve: Callable[[str], Sequence[str]], rules: EgressRules
) -> tuple[list[FieldError], list[FieldError]]:
    """(errors, warnings) for the URL of a webhook about to be saved; both point at /url.

    `resolve` gives a name's addresses, none or an OSError when it has none. A public name that does not resolve today
    is saved with a warning, because DNS may follow later; a local one is a typing mistake.
    """
    target = parse_url(url)
    if not isinstance(target, Target):
        return [FieldError("/url", problem) for problem in target], []
    problem = check_target(target, rules)
    if problem is not None:
        return [FieldError("/url", problem)], []
    try:
        addresses = [target.host] if target.is_ip else list(resolve(target.host))
    except OSError:
        addresses = []
    if not addresses:
        trouble = FieldError("/url", f"{NO_ADDRESS}: {target.host}")
        return ([trouble], []) if target.local_name else ([], [trouble])
    problem = check_addresses(target, addresses, rules)
    return ([FieldError("/url", problem)], []) if problem is not None else ([], [])
