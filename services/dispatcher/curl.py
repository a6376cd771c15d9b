"""libcurl's multi interface on the process's own asyncio loop, uvloop or plain. The only file that knows pycurl.

libcurl says which sockets to watch and when to wake it, and the loop does so; what comes of a transfer is a `Failure`
or None. https://curl.se/libcurl/c/curl_multi_socket_action.html
"""

import asyncio
import contextlib
import selectors
import socket
import time
from typing import Any

import pycurl

from services.dispatcher.answer import Answer, Failure
from services.dispatcher.idle import IDLE_S, IdleConnections
from services.dispatcher.route import Route
from shared.egress import EgressRules, check_addresses
from shared.model import Timings

PIN_S = 30
"""For how long a pin is relied upon; libcurl keeps it for 60 s, and no transfer takes longer than 30."""
MOST_PINS = 20_000
CONNECTION_LIFETIME_S = 120
"""A kept connection is not used for longer, so that a name that moved is followed."""

CurlError = pycurl.error


class _Socket(socket.socket):
    """libcurl duplicates the descriptor it is given; this one closes as soon as nothing holds it."""

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # its making may have failed
            self.close()


class Line:
    """A reusable easy handle and all that belongs to its transfer of the moment.

    The callbacks are set once and read this object, because setting one costs more than calling it.
    """

    def __init__(self, rules: EgressRules, ca_file: str) -> None:
        self.rules = rules
        self.answer = Answer()
        self.refusal: str | None = None
        """Why a callback stopped the transfer: libcurl's own error says only that no connection came about."""
        self.unpinned = False
        self.socket_errno = 0
        """Why this process could not make a socket: libcurl says only that no connection came about."""
        self.done: asyncio.Future[Failure | None] | None = None
        self._body = b""
        self._sent_bytes = 0
        self._route: Route | None = None
        self._url = ""
        self._timeout_ms = 0
        self._fresh = False
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
            (pycurl.UPLOAD_BUFFERSIZE, 16_384),  # libcurl's least; 64 KiB each would be 32 MiB for 512 slots
            (pycurl.MAXAGE_CONN, IDLE_S),
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

    @property
    def route(self) -> Route:
        """Where the transfer of the moment goes."""
        assert self._route is not None
        return self._route

    def prepare(self, route: Route, headers: list[str], body: bytes, timeout_ms: int, *, fresh: bool) -> None:
        """Set what differs from the last transfer. `fresh`: use no kept connection.

        Raises CurlError when libcurl refuses a value.
        """
        curl = self.curl
        if route.url != self._url:
            curl.setopt(pycurl.URL, route.url)
            self._url = route.url
        if timeout_ms != self._timeout_ms:
            curl.setopt(pycurl.TIMEOUT_MS, timeout_ms)
            self._timeout_ms = timeout_ms
        if fresh is not self._fresh:
            curl.setopt(pycurl.FRESH_CONNECT, fresh)
            self._fresh = fresh
        curl.setopt(pycurl.POSTFIELDSIZE, len(body))
        curl.setopt(pycurl.HTTPHEADER, headers)
        self._body = body
        self._sent_bytes = 0
        self._route = route
        self.refusal = None
        self.unpinned = False
        self.socket_errno = 0

    def pin(self) -> None:
        """Make libcurl connect to the vetted addresses and to no others."""
        self.curl.setopt(pycurl.RESOLVE, [self.route.pin])
        self.unpinned = False

    def clear(self) -> None:
        """Hold on to nothing of the transfer that ended."""
        self._body = b""
        self.answer.clear()

    @property
    def status(self) -> int:
        """The status of the last status line received; 0 without one."""
        return int(self.curl.getinfo(pycurl.RESPONSE_CODE))

    def timings(self, dns_ms: float) -> Timings:
        """When each phase was over. `dns_ms`: what had passed before libcurl began."""
        connect_s = self.curl.getinfo(pycurl.CONNECT_TIME)
        tls_s = self.curl.getinfo(pycurl.APPCONNECT_TIME)
        first_byte_s = self.curl.getinfo(pycurl.STARTTRANSFER_TIME)
        return Timings(
            dns_ms=dns_ms,
            connect_ms=dns_ms + connect_s * 1000 if connect_s else None,
            tls_ms=dns_ms + tls_s * 1000 if tls_s else None,
            first_byte_ms=dns_ms + first_byte_s * 1000 if self.answer.headers_bytes else None,
        )

    def _read(self, size: int) -> bytes:
        chunk = self._body[self._sent_bytes : self._sent_bytes + size]
        self._sent_bytes += len(chunk)
        return chunk

    def _refuse_to_resolve(self) -> int:
        """libcurl found no pin and would ask DNS itself: never."""
        self.unpinned = True
        return 1

    def _open_socket(self, _purpose: int, address: Any) -> Any:
        """The second line: judge the address that libcurl is about to connect to."""
        self.refusal = self._judge(str(address.addr[0]))
        if self.refusal is not None:
            return pycurl.SOCKET_BAD
        try:
            return _Socket(address.family, address.socktype, address.protocol)
        except OSError as error:
            self.socket_errno = error.errno or 0
            return pycurl.SOCKET_BAD

    def _before_request(self, peer: str, _own: str, _peer_port: int, _own_port: int) -> int:
        """The third: judge the peer of the connection, which may be a kept one, before a byte of the POST leaves."""
        if peer not in self.route.addresses:
            self.refusal = self._judge(peer)
        return int(pycurl.PREREQFUNC_OK if self.refusal is None else pycurl.PREREQFUNC_ABORT)

    def _judge(self, address: str) -> str | None:
        return check_addresses(self.route.target, [address], self.rules)


class Transfers:
    """Runs lines, many at a time, over kept connections. Belongs to the loop that first runs one."""

    def __init__(self, max_connections: int) -> None:
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, max_connections)
        self._multi.setopt(pycurl.M_MAX_TOTAL_CONNECTIONS, max_connections)
        self._multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_NOTHING)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)
        self._active: dict[Any, Line] = {}
        self._pinned: dict[str, tuple[str, float]] = {}
        self._watched: dict[int, int] = {}
        # One selector that the loop watches, instead of every socket in the loop: libcurl changes its mind three times
        # a POST, and each change in uvloop costs five times as much. Its bits for read and write are libcurl's too.
        self._selector = selectors.DefaultSelector()
        self._idle = IdleConnections()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._kicked = False
        self._due_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    async def run(self, line: Line) -> Failure | None:
        """Make the transfer for which `line` was prepared. Raises CurlError when libcurl will not begin."""
        if self._must_pin(line.route):
            line.pin()
        failure = await self._run(line)
        if line.unpinned:  # libcurl dropped the pin early; no connection was tried
            line.pin()
            failure = await self._run(line)
        return failure

    def has_dead(self, place: str) -> bool:
        """Has an endpoint closed a connection that is kept for it?"""
        return self._idle.has_dead(place)

    def _must_pin(self, route: Route) -> bool:
        """Is libcurl's entry for this place missing, of other addresses, or old? Setting it costs a tenth of a POST."""
        now = time.monotonic()
        pin, fresh_until = self._pinned.get(route.place, ("", 0.0))
        if pin == route.pin and now < fresh_until:
            return False
        if len(self._pinned) >= MOST_PINS:
            self._pinned.clear()
        self._pinned[route.place] = (route.pin, now + PIN_S)
        return True

    async def _run(self, line: Line) -> Failure | None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._selector.fileno(), self._on_ready)
        done: asyncio.Future[Failure | None] = self._loop.create_future()
        line.done = done
        self._active[line.curl] = line
        try:
            self._multi.add_handle(line.curl)
            return await done
        finally:
            if self._active.pop(line.curl, None) is not None:  # cancelled, or never begun
                self._multi.remove_handle(line.curl)

    def _on_socket(self, what: int, fd: int, _multi: object, _assigned: object) -> None:
        """libcurl: watch `fd` for this, from now on. It says POLL_REMOVE before it closes a socket that is watched."""
        wanted = 0 if what == pycurl.POLL_REMOVE else what
        had = self._watched.pop(fd, 0)
        if wanted:
            self._watched[fd] = wanted
            self._idle.forget(fd)
        if not had:
            self._selector.register(fd, wanted)
        elif not wanted:
            self._selector.unregister(fd)
        elif wanted != had:
            self._selector.modify(fd, wanted)

    def _on_ready(self) -> None:
        for key, events in self._selector.select(0):
            self._act(key.fd, events)

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
        if self._closed:
            return
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
        if failure is None:
            self._idle.note(curl.getinfo(pycurl.ACTIVESOCKET), line.route.place)
        self._multi.remove_handle(curl)
        assert line.done is not None
        if not line.done.done():
            line.done.set_result(failure)

    def close(self) -> None:
        """Close every connection. Transfers still under way are cancelled."""
        self._closed = True
        for curl, line in list(self._active.items()):
            del self._active[curl]
            self._multi.remove_handle(curl)
            assert line.done is not None
            line.done.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None:
            self._loop.remove_reader(self._selector.fileno())
        self._multi.close()
        self._selector.close()
