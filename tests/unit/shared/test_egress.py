"""The table of forbidden addresses and URLs, case by case, and the promise that no spelling gets around it."""

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.egress import (
    LOCAL_NAME,
    MAX_URL_LENGTH,
    NEVER,
    NO_ADDRESS,
    NOT_A_HOST,
    NOT_PUBLIC,
    OWN,
    PLAIN_HTTP,
    EgressRules,
    Target,
    check_addresses,
    check_at_save,
    parse_url,
)

PUBLIC = "93.184.216.34"
PUBLIC_V6 = "2606:2800:220:1:248:1893:25c8:1946"
RULES = EgressRules()


def allowing(*networks: str, **more: object) -> EgressRules:
    """Rules with an allow-list."""
    return EgressRules(allow=tuple(ipaddress.ip_network(text) for text in networks), **more)  # type: ignore[arg-type]


def target(url: str = "https://example.com/hook") -> Target:
    """The parts of a URL that must be fine."""
    parsed = parse_url(url)
    assert isinstance(parsed, Target), parsed
    return parsed


FORBIDDEN = {
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "this host": ["0.0.0.0", "0.1.2.3", "::"],
    "private networks": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fdff::1"],
    "shared address space": ["100.64.0.1", "100.127.255.255"],
    "link-local": ["169.254.1.1", "fe80::1", "febf::1", "fe80::1%eth0"],
    "metadata services": ["169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254", "192.0.0.192"],
    "protocol assignments": ["192.0.0.1", "192.0.0.8", "192.0.0.9", "2001::1", "2001:1ff::1"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"],
    "6to4 relays": ["192.88.99.1"],
    "benchmarks": ["198.18.0.1", "198.19.255.255"],
    "multicast": ["224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1"],
    "reserved and broadcast": ["240.0.0.1", "255.255.255.255"],
    "IPv4-mapped": ["::ffff:127.0.0.1", "::ffff:93.184.216.34"],
    "IPv4-compatible": ["::127.0.0.1"],
    "SIIT": ["::ffff:0:7f00:1"],
    "ISATAP without a prefix": ["::5efe:7f00:1"],
    "NAT64 to a forbidden address": ["64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "64:ff9b::a00:1"],
    "local NAT64": ["64:ff9b:1::a9fe:a9fe"],
    "6to4": ["2002:7f00:1::1", "2002:a9fe:a9fe::1"],
    "Teredo": ["2001:0:1::1"],
    "site-local": ["fec0::1"],
    "discard-only": ["100::1"],
    "segment routing": ["5f00::1"],
    "not assigned": ["1::1", "4000::1", "a000::1"],
    "not an address at all": ["", "localhost", "127.1", "1.2.3.4.5", "0x7f.1"],
}


@pytest.mark.parametrize(
    "address", [pytest.param(a, id=f"{why} is blocked: {a!r}") for why, group in FORBIDDEN.items() for a in group]
)
def test_forbidden_addresses(address: str) -> None:
    assert check_addresses(target(), [address], RULES) is not None
    assert check_addresses(target(), [PUBLIC, address, PUBLIC_V6], RULES) is not None, "one among several is enough"


@pytest.mark.parametrize(
    "address",
    [PUBLIC, PUBLIC_V6, "100.63.255.255", "172.32.0.1", "192.0.1.1", "198.20.0.1", "223.255.255.255", "2001:200::1"],
)
def test_public_addresses_may_be_called(address: str) -> None:
    assert check_addresses(target(), [address], RULES) is None


def test_behind_nat64_the_embedded_address_decides() -> None:
    assert check_addresses(target(), ["64:ff9b::5db8:d822"], RULES) is None
    assert check_addresses(target(), ["64:ff9b::a01:203"], allowing("10.1.2.0/24")) is None


def test_a_name_without_addresses_never_passes() -> None:
    assert check_addresses(target(), [], allowing("0.0.0.0/0", "::/0")) == NO_ADDRESS


METADATA = ["169.254.169.254", "169.254.170.2", "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16"]
WAYS_AROUND = ["::ffff:a9fe:a9fe", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "2002:a9fe:a9fe::1", "::a9fe:a9fe"]


@pytest.mark.parametrize("address", [*METADATA, *WAYS_AROUND, "0.0.0.0", "224.0.0.1", "ff02::1", "fe80::1"])
def test_stays_blocked_even_when_everything_is_allowed(address: str) -> None:
    assert check_addresses(target(), [address], allowing("0.0.0.0/0", "::/0")) == NEVER


def test_only_the_listed_networks_become_legal() -> None:
    rules = allowing("10.1.2.0/24", "fd12::/16")
    assert check_addresses(target(), ["10.1.2.3", "fd12::1"], rules) is None
    assert check_addresses(target(), ["10.1.3.1"], rules) == NOT_PUBLIC
    assert check_addresses(target(), ["10.1.2.3", PUBLIC], rules) is None
    assert check_addresses(target(), ["10.1.2.3", "10.1.3.1"], rules) == NOT_PUBLIC


def test_reasons_name_no_address() -> None:
    for reason in (NEVER, NOT_PUBLIC, OWN, LOCAL_NAME, PLAIN_HTTP, NO_ADDRESS):
        assert not any(character.isdigit() for character in reason.replace("HARI_ALLOW_HTTP=1", "").replace("IPv6", ""))


LISTED = allowing("10.0.0.0/8")


@pytest.mark.parametrize(
    ("url", "addresses", "rules", "verdict"),
    [
        pytest.param("http://example.com", [PUBLIC], RULES, PLAIN_HTTP, id="http to the public is blocked"),
        pytest.param("http://example.com", [PUBLIC], LISTED, PLAIN_HTTP, id="an allow-list does not change that"),
        pytest.param("http://example.com", ["10.0.0.1"], LISTED, None, id="http into the allow-list is fine"),
        pytest.param("http://example.com", ["10.0.0.1", PUBLIC], LISTED, PLAIN_HTTP, id="http: every address counts"),
        pytest.param("http://example.com", [PUBLIC], EgressRules(allow_http=True), None, id="http by the admin's flag"),
        pytest.param(
            "http://example.com", ["10.0.0.1"], EgressRules(allow_http=True), NOT_PUBLIC, id="no more than http"
        ),
        pytest.param("https://crm", ["10.0.0.1"], LISTED, None, id="a single label into the allow-list is fine"),
        pytest.param("https://crm", [PUBLIC], LISTED, LOCAL_NAME, id="a single label to the public is blocked"),
        pytest.param("https://crm", [PUBLIC], RULES, LOCAL_NAME, id="a single label without allow-list is blocked"),
        pytest.param("https://crm", ["10.0.0.1", PUBLIC], LISTED, LOCAL_NAME, id="single label: every address counts"),
        pytest.param("https://localhost", [PUBLIC], LISTED, LOCAL_NAME, id="localhost is a local name"),
        pytest.param("https://a.localhost", [PUBLIC], LISTED, LOCAL_NAME, id="*.localhost is a local name"),
        pytest.param("https://printer.local", [PUBLIC], LISTED, LOCAL_NAME, id="*.local is a local name"),
        pytest.param("https://metadata.google.internal", [PUBLIC], LISTED, LOCAL_NAME, id="*.internal is a local name"),
        pytest.param("https://local.example.com", [PUBLIC], RULES, None, id="local elsewhere in a name means nothing"),
    ],
)
def test_plain_http_and_local_names(url: str, addresses: list[str], rules: EgressRules, verdict: str | None) -> None:
    assert check_addresses(target(url), addresses, rules) == verdict


@pytest.mark.parametrize("port", [1, 22, 25, 79, 81, 442, 444, 1023, 4369, 5432, 5672, 6379, 15672, 25672])
def test_ports_that_may_not_be_called(port: int) -> None:
    refusal = check_addresses(target(f"https://example.com:{port}/"), [PUBLIC], allowing(PUBLIC))
    assert refusal is not None
    assert str(port) in refusal


@pytest.mark.parametrize("port", [80, 443, 1024, 8443, 65535])
def test_ports_that_may_be_called(port: int) -> None:
    assert check_addresses(target(f"https://example.com:{port}/"), [PUBLIC], RULES) is None


OWN_PORTS = frozenset({("127.0.0.1", 8080), ("0.0.0.0", 8081), ("crm.example.com", 443)})


@pytest.mark.parametrize(
    ("url", "address", "verdict"),
    [
        pytest.param("http://a.test:8080", "127.0.0.1", OWN, id="our listener by any name is blocked"),
        pytest.param("http://a.test:8081", "127.0.0.2", OWN, id="a bind to 0.0.0.0 means every loopback address"),
        pytest.param("https://crm.example.com", PUBLIC, OWN, id="our public name is blocked"),
        pytest.param("https://CRM.example.com:443/x", PUBLIC, OWN, id="our public name in other letters is blocked"),
        pytest.param("http://a.test:9000", "127.0.0.1", None, id="another port on the same machine is not ours"),
        pytest.param("http://a.test:8080", "127.0.0.2", None, id="another address with the same port is not ours"),
    ],
)
def test_our_own_listeners(url: str, address: str, verdict: str | None) -> None:
    rules = allowing("127.0.0.0/8", own=OWN_PORTS)
    assert check_addresses(target(url), [address], rules) == verdict


@pytest.mark.parametrize(
    ("url", "address", "allow", "verdict"),
    [
        pytest.param("https://a.test:8081", PUBLIC, "127.0.0.0/8", OWN, id="a bind to 0.0.0.0 means every own address"),
        pytest.param("https://a.test:8081", PUBLIC, f"{PUBLIC}/32", None, id="unless the operator allows it"),
        pytest.param("https://a.test:8080", PUBLIC, "127.0.0.0/8", None, id="a bind to one address means no other"),
        pytest.param("https://a.test:9000", PUBLIC, "127.0.0.0/8", None, id="another port of this host is not ours"),
        pytest.param("https://a.test:8081", "93.184.215.99", "127.0.0.0/8", None, id="another host is not ours"),
    ],
)
def test_our_own_interfaces(url: str, address: str, allow: str, verdict: str | None) -> None:
    rules = replace(allowing(allow, own=OWN_PORTS), is_local=lambda address: address == PUBLIC)
    assert check_addresses(target(url), [address], rules) == verdict


BAD_HOSTS = {
    "decimal": "2130706433",
    "octal": "0177.0.0.1",
    "hexadecimal": "0x7f000001",
    "hexadecimal, dotted": "0x7f.0.0.1",
    "short": "127.1",
    "zero": "0",
    "bare 0x": "127.0.0.0x",
    "leading zeros": "127.0.0.01",
    "five parts": "1.2.3.4.5",
    "Unicode digits": "①②⑦.⓪.⓪.①",
    "full-width dots": "127。0。0。1",
    "a name ending in a number": "example.1",
    "a final dot": "example.com.",
    "a final dot after an address": "127.0.0.1.",
    "an empty label": "example..com",
    "no host": "",
    "a zone id": "[fe80::1%25eth0]",
    "a bare zone id": "[fe80::1%eth0]",
    "an unclosed bracket": "[::1",
    "brackets around a name": "[example.com]",
    "brackets around IPv4": "[127.0.0.1]",
    "a future address": "[v1.a]",
    "IPv6 without brackets": "::1",
    "percent-encoding": "%31%32%37.0.0.1",
    "an international name": "bücher.example",
    "a soft hyphen": "exam\u00adple.com",
    "a label of 64": "a" * 64 + ".com",
    "a name of 254": ".".join(["a" * 49] * 5) + ".test",
    "a hyphen first": "-a.com",
    "a comma": "a,b.com",
    "a star": "*.example.com",
}


@pytest.mark.parametrize("host", [pytest.param(host, id=f"{why} is no host") for why, host in BAD_HOSTS.items()])
def test_hosts_that_are_not_canonical(host: str) -> None:
    problems = parse_url(f"https://{host}/hook")
    assert isinstance(problems, list)
    assert NOT_A_HOST in problems


BAD_URLS = {
    "another scheme": ("ftp://example.com/", "https://"),
    "a scheme that runs code": ("javascript:alert(1)", "https://"),
    "a file": ("file:///etc/passwd", "https://"),
    "gopher": ("gopher://example.com:70/_x", "https://"),
    "no scheme": ("example.com/hook", "https://"),
    "no slashes": ("https:example.com", "https://"),
    "one slash": ("https:/example.com", "https://"),
    "nothing": ("", "https://"),
    "a user name": ("https://user@example.com/", "user name"),
    "a password": ("https://user:pass@example.com/", "user name"),
    "an address before the at": ("https://127.0.0.1@example.com/", "user name"),
    "a fragment": ("https://example.com/#top", "fragment"),
    "a fragment after the host": ("https://example.com#@127.0.0.1/", "fragment"),
    "an empty fragment": ("https://example.com/#", "fragment"),
    "a backslash": ("https://127.0.0.1\\@example.com/", "backslashes"),
    "a space": ("https://example.com/a b", "spaces"),
    "a space in front": (" https://example.com/", "spaces"),
    "a tab in the host": ("https://exam\tple.com/", "spaces"),
    "a line break": ("https://example.com/\r\nX-A: b", "spaces"),
    "NUL": ("https://example.com/\0", "spaces"),
    "DEL": ("https://example.com/\x7f", "spaces"),
    "a space of Unicode": ("https://example.com/\u00a0", "spaces"),
    "2,049 characters": ("https://example.com/" + "a" * 2029, "2,048"),
    "a path that is not ASCII": ("https://example.com/bücher", "percent-encode"),
    "port 0": ("https://example.com:0/", "port"),
    "port 65536": ("https://example.com:65536/", "port"),
    "an empty port": ("https://example.com:/", "port"),
    "a port of letters": ("https://example.com:https/", "port"),
    "a port with leading zeros": ("https://example.com:0443/", "port"),
    "a signed port": ("https://example.com:+443/", "port"),
    "a port in Unicode digits": ("https://example.com:４４３/", "port"),
}


@pytest.mark.parametrize(
    ("url", "says"), [pytest.param(url, says, id=f"{why} is refused") for why, (url, says) in BAD_URLS.items()]
)
def test_urls_that_are_refused(url: str, says: str) -> None:
    problems = parse_url(url)
    assert isinstance(problems, list)
    assert any(says in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("url", "sent_to"),
    [
        ("https://example.com", "https://example.com:443/"),
        ("HTTPS://Example.COM/Path?Q=1", "https://example.com:443/Path?Q=1"),
        ("https://example.com?q=1", "https://example.com:443/?q=1"),
        ("http://10.0.0.1:8080/a/../b", "http://10.0.0.1:8080/a/../b"),
        ("https://[2606:2800:0:0::1]/x?a[]=1", "https://[2606:2800::1]:443/x?a[]=1"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example:443/"),
        ("https://my_service:8443/", "https://my_service:8443/"),
        ("https://example.com/" + "a" * 2028, "https://example.com:443/" + "a" * 2028),
    ],
)
def test_good_urls_keep_their_meaning(url: str, sent_to: str) -> None:
    assert target(url).url == sent_to
    if len(sent_to) <= MAX_URL_LENGTH:
        assert target(sent_to) == target(url), "our own spelling reads back the same"


def name_of(*addresses: str) -> object:
    """A resolver that knows one answer."""
    return lambda _host: list(addresses)


def no_such_name(_host: str) -> Sequence[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize(
    ("url", "resolve", "errors", "warnings"),
    [
        pytest.param("https://example.com", name_of(PUBLIC), [], [], id="a public name is saved"),
        pytest.param(f"https://{PUBLIC}", no_such_name, [], [], id="an address is not resolved"),
        pytest.param(
            "https://a.example", no_such_name, [], [f"{NO_ADDRESS}: a.example"], id="a dead name is a warning"
        ),
        pytest.param("https://a.example", name_of(), [], [f"{NO_ADDRESS}: a.example"], id="no address is a warning"),
        pytest.param("https://crm", no_such_name, [f"{NO_ADDRESS}: crm"], [], id="a dead single label is an error"),
        pytest.param(
            "https://example.com", name_of("192.168.0.1"), [NOT_PUBLIC], [], id="a private answer is an error"
        ),
        pytest.param("https://example.com", name_of(PUBLIC, "127.0.0.1"), [NOT_PUBLIC], [], id="one of two is enough"),
        pytest.param("https://example.com", name_of("169.254.169.254"), [NEVER], [], id="metadata is an error"),
        pytest.param("https://127.0.0.1", no_such_name, [NOT_PUBLIC], [], id="a literal loopback is an error"),
        pytest.param("https://127.1", name_of("127.0.0.1"), [NOT_A_HOST], [], id="malformed is an error"),
        pytest.param("http://example.com", name_of(PUBLIC), [PLAIN_HTTP], [], id="plain http is an error"),
    ],
)
def test_at_save(url: str, resolve: object, errors: list[str], warnings: list[str]) -> None:
    rules = allowing("10.0.0.0/8")
    found_errors, found_warnings = check_at_save(url, resolve, rules)  # type: ignore[arg-type]
    assert [error.detail for error in found_errors] == errors
    assert [warning.detail for warning in found_warnings] == warnings
    assert {problem.pointer for problem in [*found_errors, *found_warnings]} <= {"/url"}


def test_at_save_a_single_label_without_allow_list_is_not_even_resolved() -> None:
    def must_not_ask(_host: str) -> Sequence[str]:
        raise AssertionError("asked")

    assert [error.detail for error in check_at_save("https://crm", must_not_ask, RULES)[0]] == [LOCAL_NAME]
    assert [error.detail for error in check_at_save("http://example.com", must_not_ask, RULES)[0]] == [PLAIN_HTTP]


FORBIDDEN_V4 = [
    ipaddress.IPv4Address(address) for group in FORBIDDEN.values() for address in group if address.count(".") == 3
    and ":" not in address
]  # fmt: skip
forbidden_v4 = st.sampled_from(FORBIDDEN_V4) | st.sampled_from(["10.0.0.0/8", "127.0.0.0/8", "192.168.0.0/16"]).flatmap(
    lambda text: st.ip_addresses(v=4, network=text)
)


@st.composite
def spellings(draw: st.DrawFn) -> str:
    """A forbidden IPv4 address, written in one of the ways that some parser takes for it."""
    number = int(draw(forbidden_v4))
    octets = number.to_bytes(4, "big")
    part = st.sampled_from(["{:d}", "0{:o}", "0x{:x}", "0X{:X}"])
    cuts = [
        [number],
        [octets[0], number & 0xFFFFFF],
        [octets[0], octets[1], number & 0xFFFF],
        list(octets),
    ]
    parts = draw(st.sampled_from(cuts))
    text = ".".join(draw(part).format(value) for value in parts)
    high, low = number >> 16, number & 0xFFFF
    embedded = [f"[::ffff:{high:x}:{low:x}]", f"[::{high:x}:{low:x}]", f"[64:ff9b::{high:x}:{low:x}]"]
    embedded += [f"[2002:{high:x}:{low:x}::1]", f"[::ffff:{ipaddress.IPv4Address(number)}]", f"[64:ff9b:1::{low:x}]"]
    text = draw(st.sampled_from([text, text, text, text + ".", *embedded]))
    digits = draw(st.sampled_from(["0123456789", "０１２３４５６７８９", "⓪①②③④⑤⑥⑦⑧⑨"]))
    return text.translate(str.maketrans("0123456789", digits))


def leads_to(host: str) -> list[str]:
    """What the system's resolver makes of a host that it can read as an address; it does not ask the network."""
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return []
    return [str(answer[4][0]) for answer in answers]


@given(spellings(), st.sampled_from(["https://{}/", "https://{}:8443/x", "https://{}?a=b", "HTTPS://{}"]))
@example("127.0.0.1", "https://{}/")
@example("0x7f.1", "https://{}/")
def test_no_spelling_of_a_forbidden_address_passes(host: str, form: str) -> None:
    """Neither at save, whatever the resolver says, nor afterwards by what the host resolves to."""
    parsed = parse_url(form.format(host))
    if isinstance(parsed, Target):
        assert parsed.is_ip
        assert check_addresses(parsed, [parsed.host], RULES) is not None
    errors, _ = check_at_save(form.format(host), lambda _: [PUBLIC], RULES)
    assert errors
    for address in leads_to(host):
        assert check_addresses(target(), [address], RULES) is not None


@given(st.text(max_size=40), st.text(max_size=20))
def test_the_parser_never_raises_and_what_it_passes_is_one_clean_line(middle: str, tail: str) -> None:
    for url in (middle, f"https://{middle}", f"https://{middle}/{tail}", f"http://example.com{middle}?{tail}"):
        parsed = parse_url(url)
        if isinstance(parsed, Target):
            assert parsed.url.isascii()
            assert parsed.url.isprintable()
            assert not set(parsed.url) & set(" \\#")
            assert target(parsed.url) == parsed
        else:
            assert parsed
            assert all(parsed)
