"""Endpoints to send to: good ones, and every way to be a bad one. Loopback only.

`with Receiver(status(500)) as receiver: …` runs one on a thread of its own; `receiver.requests` is its journal. A
behaviour is called once for every whole request; one that is a coroutine function may take its time.
"""

import asyncio
import gzip
import inspect
import socket
import ssl
import struct
import threading
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import TracebackType
from typing import Self

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.waiting import eventually


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came. `headers`: in order, names as they were spelled."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    connection_no: int

    def header(self, name: str) -> str | None:
        """The first header of that name, in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class Connection(asyncio.Protocol):
    """One connection to a receiver, as its behaviour sees it."""

    def __init__(self, receiver: "Receiver") -> None:
        self._receiver = receiver
        self._unread = b""
        self._tasks: set[asyncio.Task[None]] = set()
        self._writable = asyncio.Event()
        self._writable.set()
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._receiver.connections.append(self)
        self.no = len(self._receiver.connections)
        if self._receiver.greeting is not None:
            self.run(self._receiver.greeting(self))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        for task in self._tasks:
            task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while (parsed := _parse(self._unread, self.no)) is not None:
            request, self._unread = parsed
            self._receiver.requests.append(request)
            self.run(self._receiver.behaviour(self, request))

    def run(self, work: Awaitable[None] | None) -> None:
        if inspect.iscoroutine(work):
            task = asyncio.get_running_loop().create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    async def pump(self, data: bytes) -> None:
        """Write `data` for ever, as fast as it is read."""
        while not self.closed.is_set():
            self.transport.write(data)
            await self._writable.wait()
            await asyncio.sleep(0)

    def close(self) -> None:
        self.transport.close()

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        own: socket.socket = self.transport.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def _parse(unread: bytes, connection_no: int) -> tuple[Received, bytes] | None:
    head, separator, rest = unread.partition(b"\r\n\r\n")
    if not separator:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    pairs = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
    length = next((int(value) for name, value in pairs if name.lower() == "content-length"), 0)
    if len(rest) < length:
        return None
    return Received(method, path, pairs, rest[:length], connection_no), rest[length:]


Behaviour = Callable[[Connection, Received], Awaitable[None] | None]


class Receiver:
    """A server on 127.0.0.1 (or `host`) and a free port. `greeting` runs when a connection opens, before any byte."""

    def __init__(
        self,
        behaviour: Behaviour | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        greeting: Callable[[Connection], Awaitable[None]] | None = None,
    ) -> None:
        self.behaviour = ok if behaviour is None else behaviour
        self.greeting = greeting
        self.requests: list[Received] = []
        self.connections: list[Connection] = []
        self._tls = tls
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=1024)
        self.host, self.port = host, self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens, by address."""
        return self.url_for(f"[{self.host}]" if ":" in self.host else self.host)

    def url_for(self, host: str, path: str = "/hook") -> str:
        """Where it listens, by another name."""
        return f"{'http' if self._tls is None else 'https'}://{host}:{self.port}{path}"

    def wait_for(self, count: int, within_s: float = 10) -> list[Received]:
        """The journal once it holds `count` requests."""
        eventually(lambda: len(self.requests) >= count, within_s, f"{count} requests")
        return self.requests

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await self._loop.create_server(lambda: Connection(self), sock=self._listener, ssl=self._tls)
        await self._stop.wait()
        server.close()
        for connection in self.connections:
            connection.transport.abort()
        await asyncio.gather(*(connection.closed.wait() for connection in self.connections))


# Behaviours

_OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"


def ok(connection: Connection, _request: Received) -> None:
    """Answer 200 at once and keep the connection."""
    connection.transport.write(_OK)


def answer(status: int, *headers: str, body: bytes = b"") -> Behaviour:
    """Answer `status` with these header lines."""
    lines = [f"HTTP/1.1 {status} Any", f"Content-Length: {len(body)}", *headers]
    whole = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
    return lambda connection, _request: connection.write(whole)


def raw(data: bytes, *, then: Callable[[Connection], None] | None = None) -> Behaviour:
    """Write these bytes, then e.g. `Connection.close` or `Connection.reset`; by default hang."""

    def behave(connection: Connection, _request: Received) -> None:
        connection.write(data)
        if then is not None:
            then(connection)

    return behave


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """The first behaviour for the first request of the receiver, and so on; the last one stays."""
    left = list(behaviours)
    return lambda connection, request: (left.pop(0) if len(left) > 1 else left[0])(connection, request)


def slow(delay_s: float) -> Behaviour:
    """Answer 200 after `delay_s`."""

    async def behave(connection: Connection, request: Received) -> None:
        await asyncio.sleep(delay_s)
        ok(connection, request)

    return behave


def hang(_connection: Connection, _request: Received) -> None:
    """Never answer."""


def close(connection: Connection, _request: Received) -> None:
    """Close without an answer."""
    connection.close()


def reset(connection: Connection, _request: Received) -> None:
    """RST instead of an answer."""
    connection.reset()


def redirect(location: str, status: int = 302) -> Behaviour:
    """Send the caller elsewhere."""
    return answer(status, f"Location: {location}")


hang_mid_body = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
close_mid_body = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", then=Connection.close)
garbage = raw(b"\x16\x03\x01\x00\x00SSH-2.0-nothing of HTTP\r\n\r\n", then=Connection.close)


async def drip(connection: Connection, _request: Received) -> None:
    """200 at once, then a byte of body now and then."""
    connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        connection.write(b".")
        await asyncio.sleep(0.02)


async def reset_mid_body(connection: Connection, _request: Received) -> None:
    """200 and half a body, and RST once the other side can have read them."""
    connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    await asyncio.sleep(0.1)
    connection.reset()


async def endless_body(connection: Connection, _request: Received) -> None:
    """200 and chunks for ever."""
    connection.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await connection.pump(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")


async def endless_headers(connection: Connection, _request: Received) -> None:
    """200 and header lines for ever."""
    connection.write(b"HTTP/1.1 200 OK\r\n")
    await connection.pump(b"X-More: " + b"x" * 1000 + b"\r\n")


async def flood_of_1xx(connection: Connection, _request: Received) -> None:
    """Interim answers for ever, and never a final one."""
    await connection.pump(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")


BOMB = gzip.compress(bytes(20_000_000), mtime=0)
gzip_bomb = answer(200, "Content-Encoding: gzip", body=BOMB)


# TLS


class Authority:
    """A certificate authority of our own; `ca_file` is what a sender must trust to like `good()`."""

    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA()
        self.ca_file = str(directory / "ca.pem")
        self._ca.cert_pem.write_to_path(self.ca_file)

    def good(self) -> ssl.SSLContext:
        """For localhost and 127.0.0.1."""
        return _context(self._ca.issue_cert("localhost", "127.0.0.1"))

    def expired(self) -> ssl.SSLContext:
        """Ran out in 2001."""
        return _context(self._ca.issue_cert("localhost", not_after=datetime(2001, 1, 1, tzinfo=UTC)))

    def wrong_host(self) -> ssl.SSLContext:
        """For a name that is not ours."""
        return _context(self._ca.issue_cert("elsewhere.example"))

    def old_protocol(self) -> ssl.SSLContext:
        """A good certificate, TLS 1.1 at most."""
        context = self.good()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        return context


def unknown_authority() -> ssl.SSLContext:
    """A certificate for localhost from an authority that nobody trusts."""
    return _context(trustme.CA().issue_cert("localhost", "127.0.0.1"))


def self_signed() -> ssl.SSLContext:
    """A certificate for localhost that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with NamedTemporaryFile() as file:
        file.write(secret + certificate.public_bytes(Encoding.PEM))
        file.flush()
        context.load_cert_chain(file.name)
    return context


def _context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context
