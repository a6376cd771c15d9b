"""Make one POST and say what it met. The only door to customers' endpoints."""

import socket
import time
from collections.abc import Awaitable, Callable, Sequence

import certifi

from services.dispatcher.answer import NO_CA_FILE, NO_CONNECTION, Failure, lack_of, outcome_of
from services.dispatcher.curl import CurlError, Line, Transfers
from services.dispatcher.route import Route, route_to
from shared.egress import EgressRules, Target, parse_url
from shared.model import Outcome, Problem, Request
from shared.outgoing.request import MAX_BODY_BYTES

MOST_ROUTES = 20_000

Resolve = Callable[[str, float], Awaitable[Sequence[str]]]
"""(name, seconds to wait at most) -> its addresses; none, or an OSError, when it has none."""


class Sender:
    """Sends requests, many at a time, over kept connections. Belongs to the loop that first sends."""

    def __init__(
        self, *, resolve: Resolve, rules: EgressRules, ca_file: str | None = None, max_connections: int = 1024
    ) -> None:
        """`ca_file`: the authorities to trust, as PEM; certifi's when None."""
        self._resolve = resolve
        self._rules = rules
        self._ca_file = ca_file or certifi.where()
        self._targets: dict[str, Target | str] = {}
        self._routes: dict[str, Route] = {}
        self._free: list[Line] = []
        self._transfers = Transfers(max_connections)

    async def send(self, request: Request) -> Outcome:
        """POST `request` once, within its timeout, and say what came of it. Never raises for what an endpoint does."""
        started = time.perf_counter()
        if len(request.body) > MAX_BODY_BYTES:
            detail = f"the payload has {len(request.body):,} bytes; at most {MAX_BODY_BYTES:,} are sent"
            return Outcome(problem=Problem.PAYLOAD_TOO_LARGE, detail=detail)
        try:
            route = await self._route(request)
        except TimeoutError:
            detail = f"the host name was not resolved in {request.timeout_s:g} s"
            return Outcome(problem=Problem.TIMEOUT, detail=detail, duration_ms=_ms_since(started))
        except OSError as error:
            if (lack := lack_of(error.errno) or lack_of(_socket_errno())) is not None:
                return _own_trouble(lack, started)
            detail = f"the host name does not resolve: {error.strerror or error}"
            return Outcome(problem=Problem.DNS_ERROR, detail=detail, duration_ms=_ms_since(started))
        if isinstance(route, str):
            return Outcome(problem=Problem.BLOCKED_TARGET, detail=route, duration_ms=_ms_since(started))
        return await self._post(request, route, started)

    async def _route(self, request: Request) -> Route | str:
        """Where the request leads now, or why it must not be called.

        Resolves and vets every time; what is remembered is the verdict on the same addresses.
        """
        target = self._target(request.url)
        if isinstance(target, str):
            return target
        addresses = (target.host,) if target.is_ip else await self._resolve(target.host, request.timeout_s)
        if not addresses:
            raise OSError("no address")
        route = self._routes.get(request.url)
        if route is None or route.addresses != addresses:
            route = self._routes[request.url] = route_to(target, addresses, self._rules)
        return route if route.refusal is None else route.refusal

    def _target(self, url: str) -> Target | str:
        target = self._targets.get(url)
        if target is None:
            if len(self._targets) >= MOST_ROUTES:
                self._targets.clear()
                self._routes.clear()
            parsed = parse_url(url)
            target = self._targets[url] = parsed if isinstance(parsed, Target) else "; ".join(parsed)
        return target

    async def _post(self, request: Request, route: Route, started: float) -> Outcome:
        headers = [f"{name}: {value}" for name, value in request.headers]
        text = "".join(headers)
        if not (text.isascii() and text.isprintable()):  # the last line against a header that smuggles another
            return Outcome(problem=Problem.UNKNOWN, detail="a header or secret holds a character that may not be sent")
        headers.append("Expect:")
        dns_ms = _ms_since(started)
        timeout_ms = max(1, round(request.timeout_s * 1000) - int(dns_ms))
        line = self._free.pop() if self._free else Line(self._rules, self._ca_file)
        try:
            line.prepare(route, headers, request.body, timeout_ms, fresh=self._transfers.has_dead(route.place))
            failure = await self._transfers.run(line)
            return _outcome(line, failure, request, dns_ms, started)
        except CurlError as error:
            return Outcome(problem=Problem.UNKNOWN, detail=str(error.args[-1]), duration_ms=_ms_since(started))
        finally:
            line.clear()
            self._free.append(line)

    async def close(self) -> None:
        """Close every connection. Sends still under way are cancelled."""
        self._transfers.close()
        self._free.clear()


def _outcome(line: Line, failure: Failure | None, request: Request, dns_ms: float, started: float) -> Outcome:
    if failure is not None and (lack := _lack(line, failure)) is not None:
        return _own_trouble(lack, started)
    timings = line.timings(dns_ms)
    duration_ms = _ms_since(started)
    if failure is not None and line.refusal is not None:
        blocked = Problem.BLOCKED_TARGET
        return Outcome(problem=blocked, detail=line.refusal, duration_ms=duration_ms, timings=timings)
    return outcome_of(
        line.answer,
        line.status,
        failure,
        https=line.route.target.scheme == "https",
        redirect=request.redirect,
        timeout_s=request.timeout_s,
        timings=timings,
        duration_ms=duration_ms,
        now_s=time.time(),
    )


def _lack(line: Line, failure: Failure) -> str | None:
    """What this process had none of, when that is why no connection came about."""
    if failure.code == NO_CA_FILE:  # libcurl opens it for each new connection
        return lack_of(_socket_errno())
    if failure.code != NO_CONNECTION:
        return None
    # A host without IPv6 says EADDRNOTAVAIL of every IPv6 address, however many ports are free.
    ports = failure.os_error if not any(":" in address for address in line.route.addresses) else 0
    return lack_of(line.socket_errno) or lack_of(ports)


def _socket_errno() -> int:
    """Why no socket can be made now; 0 when one can. The C library's resolver and TLS do not say so."""
    try:
        socket.socket().close()
    except OSError as error:
        return error.errno or 0
    return 0


def _own_trouble(lack: str, started: float) -> Outcome:
    detail = f"the dispatcher had no {lack} left; nothing was sent"
    return Outcome(problem=Problem.UNKNOWN, detail=detail, duration_ms=_ms_since(started), own_trouble=True)


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
