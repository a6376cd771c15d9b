"""Where a URL leads, vetted. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.egress import EgressRules, Target, check_addresses


@dataclass(frozen=True, slots=True)
class Route:
    """A target, the addresses that its name had when last asked, and the verdict on them."""

    target: Target
    url: str
    place: str
    """Host and port: what a connection can be kept for."""
    addresses: Sequence[str]
    refusal: str | None
    pin: str
    """The addresses as CURLOPT_RESOLVE wants them. All of them, so that libcurl tries the next when one is down
    (CURLOPT_CONNECT_TO takes a single one). "+" lets the entry age in libcurl's cache, which holds one for every host.
    """


def route_to(target: Target, addresses: Sequence[str], rules: EgressRules) -> Route:
    """The way to `target` over `addresses`, or why it must not be gone."""
    refusal = check_addresses(target, addresses, rules)
    host, *listed = (f"[{text}]" if ":" in text else text for text in (target.host, *addresses))
    place = f"{host}:{target.port}"
    return Route(target, target.url, place, addresses, refusal, f"+{place}:{','.join(listed)}")
