"""Make one POST and say what it met. The only file that calls customers' endpoints, and that knows pycurl.

libcurl's multi interface runs on the process's own asyncio loop (uvloop or plain): libcurl says which sockets to watch
and when to wake it, the loop does so. https://curl.se/libcurl/c/curl_multi_socket_action.html
"""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import certifi
import pycurl

from services.dispatcher.answer import Answer, Failure, outcome_of
from shared.egress import EgressRules, Target, check_addresses, parse_url
from shared.model import Outcome, Problem, Request, Timings
from shared.outgoing.request import MAX_BODY_BYTES

MOST_ROUTES = 20_000
PIN_S = 30
"""For how long a pin is relied upon; libcurl keeps it for 60 s, and no transfer takes longer than 30."""
CONNECTION_LIFETIME_S = 120
"""A kept connection is not used for longer, so that a name that moved is followed."""

Resolve = Callable[[str, float], Awaitable[Sequence[str]]]
"""(name, seconds to wait at most) -> its addresses; none, or an OSError, when it has none."""


@dataclass(frozen=True, slots=True)
class _Route:
    """A URL taken apart and the verdict on the addresses its name had when last asked."""

    target: Target
    url: str
    addresses: Sequence[str]
    refusal: str | None
    pin: str


class _Socket(socket.socket):
    """libcurl duplicates the descriptor it is given; this one closes as soon as nothing holds it."""

    def __del__(self) -> None:
        self.close()


class _Line:
    """A reusable easy handle and all that belongs to its transfer of the moment.

    The callbacks are set once and read this object, because setting one costs more than calling it.
    """

    def __init__(self, rules: EgressRules, ca_file: str) -> None:
        self.rules = rules
        self.answer = Answer()
        self.body = b""
        self.sent_bytes = 0
        self.route: _Route | None = None
        self.refusal: str | None = None
        self.unpinned = False
        self.done: asyncio.Future[Failure | None] | None = None
        self.url = ""
        self.timeout_ms = 0
        self.curl = self._new_curl(ca_file)

    def _new_curl(self, ca_file: str) -> Any:
        curl = pycurl.Curl()
        for option, value in (
            (pycurl.POST, 1),
            (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
            (pycurl.HTTP09_ALLOWED, 0),
            (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
            (pycurl.PATH_AS_IS, 1),
            (pycurl.FOLLOWLOCATION, 0),
            (pycurl.PROXY, ""),  # empty, not unset: libcurl obeys http_proxy in the environment
            (pycurl.NOPROXY, "*"),
            (pycurl.NETRC, pycurl.NETRC_IGNORED),
            (pycurl.NOSIGNAL, 1),
            (pycurl.ACCEPT_ENCODING, "identity"),
            (pycurl.HTTP_CONTENT_DECODING, 0),
            (pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2),
            (pycurl.SSL_VERIFYPEER, 1),
            (pycurl.SSL_VERIFYHOST, 2),
            (pycurl.CAINFO, ca_file),
            (pycurl.MAXLIFETIME_CONN, CONNECTION_LIFETIME_S),
            # No SEEKFUNCTION beside it: libcurl then cannot send a POST a second time by itself on finding that a
            # kept connection was dead, and says error 65 instead.
            (pycurl.READFUNCTION, self._read),
            (pycurl.HEADERFUNCTION, self.answer.add_header),
            (pycurl.WRITEFUNCTION, self.answer.add_body),
            (pycurl.RESOLVER_START_FUNCTION, self._refuse_to_resolve),
            (pycurl.OPENSOCKETFUNCTION, self._open_socket),
            (pycurl.PREREQFUNCTION, self._before_request),
        ):
            curl.setopt(option, value)
        return curl

    def prepare(self, request: Request, route: _Route, timeout_ms: int, headers: list[str]) -> None:
        """Set what differs from the last transfer. Raises pycurl.error when libcurl refuses a value."""
        curl = self.curl
        if route.url != self.url:
            curl.setopt(pycurl.URL, route.url)
            self.url = route.url
        if timeout_ms != self.timeout_ms:
            curl.setopt(pycurl.TIMEOUT_MS, timeout_ms)
            self.timeout_ms = timeout_ms
        curl.setopt(pycurl.POSTFIELDSIZE, len(request.body))
        curl.setopt(pycurl.HTTPHEADER, headers)
        self.body = request.body
        self.sent_bytes = 0
        self.route = route
        self.refusal = None
        self.answer.clear()

    def pin(self) -> None:
        """Make libcurl connect to the vetted addresses and to no others.

        CURLOPT_RESOLVE with all of them, so that it tries the next when one is down (CONNECT_TO takes a single one).
        "+" lets the entry age; without it one for every host would stay in libcurl's cache for ever.
        """
        assert self.route is not None
        self.curl.setopt(pycurl.RESOLVE, [self.route.pin])
        self.unpinned = False

    def _refuse_to_resolve(self) -> int:
        """libcurl found no pin and would ask DNS itself: never."""
        self.unpinned = True
        return 1

    def _read(self, size: int) -> bytes:
        chunk = self.body[self.sent_bytes : self.sent_bytes + size]
        self.sent_bytes += len(chunk)
        return chunk

    def _open_socket(self, _purpose: int, address: Any) -> Any:
        """The second line: judge the address that libcurl is about to connect to."""
        self.refusal = self._judge(str(address.addr[0]))
        if self.refusal is not None:
            return pycurl.SOCKET_BAD
        return _Socket(address.family, address.socktype, address.protocol)

    def _before_request(self, peer: str, _own: str, _peer_port: int, _own_port: int) -> int:
        """The third: judge the peer of the connection, which may be a kept one, before a byte of the POST leaves."""
        assert self.route is not None
        if peer in self.route.addresses:
            return int(pycurl.PREREQFUNC_OK)
        self.refusal = self._judge(peer)
        return int(pycurl.PREREQFUNC_OK if self.refusal is None else pycurl.PREREQFUNC_ABORT)

    def _judge(self, address: str) -> str | None:
        assert self.route is not None
        return check_addresses(self.route.target, [address], self.rules)

    def timings(self, dns_ms: float) -> Timings:
        connect_s, tls_s, first_byte_s = map(
            self.curl.getinfo, (pycurl.CONNECT_TIME, pycurl.APPCONNECT_TIME, pycurl.STARTTRANSFER_TIME)
        )
        return Timings(
            dns_ms=dns_ms,
            connect_ms=dns_ms + connect_s * 1000 if connect_s else None,
            tls_ms=dns_ms + tls_s * 1000 if tls_s else None,
            first_byte_ms=dns_ms + first_byte_s * 1000 if self.answer.headers_bytes else None,
        )


class Sender:
    """Sends requests, many at a time, over kept connections. Belongs to the loop that first sends."""

    def __init__(
        self, *, resolve: Resolve, rules: EgressRules, ca_file: str | None = None, max_connections: int = 1024
    ) -> None:
        """`ca_file`: the authorities to trust, as PEM; certifi's when None."""
        self._resolve = resolve
        self._rules = rules
        self._ca_file = ca_file or certifi.where()
        self._routes: dict[str, _Route | str] = {}
        self._pinned: dict[str, tuple[str, float]] = {}
        self._free: list[_Line] = []
        self._active: dict[Any, _Line] = {}
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, max_connections)
        self._multi.setopt(pycurl.M_MAX_TOTAL_CONNECTIONS, max_connections)
        self._multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_NOTHING)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watched: dict[int, int] = {}
        self._kicked = False
        self._due_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

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
            detail = f"the host name does not resolve: {error.strerror or error}"
            return Outcome(problem=Problem.DNS_ERROR, detail=detail, duration_ms=_ms_since(started))
        if isinstance(route, str):
            return Outcome(problem=Problem.BLOCKED_TARGET, detail=route, duration_ms=_ms_since(started))
        return await self._post(request, route, started)

    async def _route(self, request: Request) -> _Route | str:
        """Where the request leads now, or why it must not be called.

        Resolves and vets every time; what is remembered is the verdict on the same addresses.
        """
        url = request.url
        known = self._routes.get(url)
        if known is None:
            parsed = parse_url(url)
            known = _Route(parsed, parsed.url, (), None, "") if isinstance(parsed, Target) else "; ".join(parsed)
        if isinstance(known, str):
            return known
        target = known.target
        addresses = (target.host,) if target.is_ip else await self._resolve(target.host, request.timeout_s)
        if not addresses:
            raise OSError("no address")
        if addresses != known.addresses:
            refusal = check_addresses(target, addresses, self._rules)
            known = _Route(target, target.url, addresses, refusal, _pin(target, addresses))
            if len(self._routes) >= MOST_ROUTES:
                self._routes.clear()
            self._routes[url] = known
        return known if known.refusal is None else known.refusal

    async def _post(self, request: Request, route: _Route, started: float) -> Outcome:
        headers = [f"{name}: {value}" for name, value in request.headers]
        text = "".join(headers)
        if not (text.isascii() and text.isprintable()):  # the last line against a header that smuggles another
            return Outcome(problem=Problem.UNKNOWN, detail="a header or secret holds a character that may not be sent")
        headers.append("Expect:")
        dns_ms = _ms_since(started)
        timeout_ms = max(1, round(request.timeout_s * 1000) - int(dns_ms))
        line = self._free.pop() if self._free else _Line(self._rules, self._ca_file)
        try:
            line.prepare(request, route, timeout_ms, headers)
            if self._must_pin(route, started):
                line.pin()
            failure = await self._transfer(line)
            if line.unpinned:  # libcurl dropped the pin early; no connection was tried
                line.pin()
                failure = await self._transfer(line)
            return self._outcome(line, failure, request, dns_ms, started)
        except pycurl.error as error:
            return Outcome(problem=Problem.UNKNOWN, detail=str(error.args[-1]), duration_ms=_ms_since(started))
        finally:
            line.body = b""
            line.answer.clear()
            self._free.append(line)

    def _must_pin(self, route: _Route, now: float) -> bool:
        """Is libcurl's entry for this host and port missing, of other addresses, or old? Setting it costs 5 µs, a tenth
        of a POST."""
        place = f"{route.target.host}:{route.target.port}"
        pin, fresh_until = self._pinned.get(place, ("", 0.0))
        if pin == route.pin and now < fresh_until:
            return False
        if len(self._pinned) >= MOST_ROUTES:
            self._pinned.clear()
        self._pinned[place] = (route.pin, now + PIN_S)
        return True

    async def _transfer(self, line: _Line) -> Failure | None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        done: asyncio.Future[Failure | None] = self._loop.create_future()
        line.done = done
        self._active[line.curl] = line
        try:
            self._multi.add_handle(line.curl)
            return await done
        finally:
            if self._active.pop(line.curl, None) is not None:  # cancelled, or never begun
                self._multi.remove_handle(line.curl)

    def _outcome(
        self, line: _Line, failure: Failure | None, request: Request, dns_ms: float, started: float
    ) -> Outcome:
        assert line.route is not None
        timings = line.timings(dns_ms)
        if failure is not None and line.refusal is not None:
            return Outcome(
                problem=Problem.BLOCKED_TARGET, detail=line.refusal, duration_ms=_ms_since(started), timings=timings
            )
        return outcome_of(
            line.answer,
            line.curl.getinfo(pycurl.RESPONSE_CODE),
            failure,
            https=line.route.target.scheme == "https",
            timeout_s=request.timeout_s,
            timings=timings,
            duration_ms=_ms_since(started),
            now_s=time.time(),
        )

    def _on_socket(self, what: int, fd: int, _multi: object, _assigned: object) -> None:
        """libcurl: watch `fd` for this, from now on. It says POLL_REMOVE before it closes a socket that is watched."""
        assert self._loop is not None
        wanted = 0 if what == pycurl.POLL_REMOVE else what
        had = self._watched.pop(fd, 0)
        if wanted:
            self._watched[fd] = wanted
        changed = wanted ^ had
        if changed & pycurl.POLL_IN:
            if wanted & pycurl.POLL_IN:
                self._loop.add_reader(fd, self._act, fd, pycurl.CSELECT_IN)
            else:
                self._loop.remove_reader(fd)
        if changed & pycurl.POLL_OUT:
            if wanted & pycurl.POLL_OUT:
                self._loop.add_writer(fd, self._act, fd, pycurl.CSELECT_OUT)
            else:
                self._loop.remove_writer(fd)

    def _on_timer(self, timeout_ms: int) -> None:
        """libcurl: wake me in `timeout_ms`, instead of what I said before; -1: not at all.

        A timer that stands too early stays: firing for nothing now and then costs less than moving it at every POST.
        libcurl must not be called from in here.
        """
        assert self._loop is not None
        if timeout_ms == 0:
            if not self._kicked:
                self._kicked = True
                self._loop.call_soon(self._kick)
        elif timeout_ms < 0:
            self._due_at = None
        else:
            self._due_at = self._loop.time() + timeout_ms / 1000
            if self._timer is None or self._timer_at > self._due_at:
                self._set_timer(self._due_at)

    def _set_timer(self, at: float) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._on_due)
        self._timer_at = at

    def _on_due(self) -> None:
        assert self._loop is not None
        self._timer = None
        if self._due_at is None:
            return
        if self._due_at > self._loop.time() + 0.001:
            self._set_timer(self._due_at)
            return
        self._due_at = None
        self._act(pycurl.SOCKET_TIMEOUT, 0)

    def _kick(self) -> None:
        self._kicked = False
        self._act(pycurl.SOCKET_TIMEOUT, 0)

    def _act(self, fd: int, events: int) -> None:
        _, running = self._multi.socket_action(fd, events)
        if running < len(self._active):
            self._collect()

    def _collect(self) -> None:
        waiting = 1
        while waiting:
            waiting, succeeded, failed = self._multi.info_read()
            for curl in succeeded:
                self._finish(curl, None)
            for curl, code, message in failed:
                self._finish(curl, Failure(code, message, curl.getinfo(pycurl.OS_ERRNO)))

    def _finish(self, curl: Any, failure: Failure | None) -> None:
        line = self._active.pop(curl)
        self._multi.remove_handle(curl)
        assert line.done is not None
        if not line.done.done():
            line.done.set_result(failure)

    async def close(self) -> None:
        """Close every connection. Sends still under way are cancelled."""
        for curl, line in list(self._active.items()):
            del self._active[curl]
            self._multi.remove_handle(curl)
            assert line.done is not None
            line.done.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._multi.close()
        for line in self._free:
            line.curl.close()
        self._free.clear()


def _pin(target: Target, addresses: Sequence[str]) -> str:
    host, *listed = (f"[{text}]" if ":" in text else text for text in (target.host, *addresses))
    return f"+{host}:{target.port}:{','.join(listed)}"


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
