"""Clients that hold a connection and say little: the API's port gives each of them an end."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api import KEY, Api
from tests.waiting import eventually

HEAD = b"GET /api/v1/webhooks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    api = Api(f"sqlite:///{tmp_path / 'hari.db'}")
    yield api
    api.close()


def connect(api: Api) -> socket.socket:
    host, port = api.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def read_to_end(client: socket.socket) -> bytes:
    """Everything until the server closes; the socket's own timeout is the deadline."""
    came = b""
    while chunk := client.recv(65536):
        came += chunk
    return came


def test_headers_that_come_byte_by_byte_end_at_a_deadline(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.producer.connections.HEADERS_S", 0.3)
    with connect(api) as client:
        client.sendall(HEAD)

        def cut_off() -> bool:
            try:
                client.sendall(b"a")
                return client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) is not None
            except BlockingIOError:
                return False
            except ConnectionError:
                return True

        eventually(cut_off, 20)


def test_slow_headers_on_a_kept_connection_end_too(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.producer.connections.HEADERS_S", 0.3)
    with connect(api) as client:
        client.sendall(HEAD + b"\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        client.sendall(HEAD)
        assert read_to_end(client).startswith(b"HTTP/1.1 408 ")


def test_a_connection_that_says_nothing_is_closed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.producer.connections.HEADERS_S", 0.1)
    with connect(api) as client:
        assert read_to_end(client) == b""


def test_an_answer_may_take_longer_than_headers_may(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.producer.connections.HEADERS_S", 0.1)
    monkeypatch.setattr("services.producer.webhooks_api.RESOLVE_S", 0.5)
    hook = {"name": "n", "entity": "Deal", "event": "save", "url": "https://slow.example.com/x"}
    started = time.monotonic()
    api.call("POST", "/webhooks", hook, status=201)
    assert time.monotonic() - started > 0.1, "it was not slow, so it proves nothing"


def test_pipelined_requests_are_all_answered(api: Api) -> None:
    with connect(api) as client:
        client.sendall((HEAD + b"\r\n") * 3 + HEAD + b"Connection: close\r\n\r\n")
        assert read_to_end(client).count(b"HTTP/1.1 200 ") == 4


def test_headers_without_end_are_refused(api: Api) -> None:
    with connect(api) as client:
        client.sendall(HEAD + b"X-A: " + b"a" * 70_000)
        assert client.recv(65536).startswith(b"HTTP/1.1 431 ")


def test_a_body_larger_than_headers_may_be_is_taken(api: Api) -> None:
    api.call("POST", "/records/Deal", {"name": "x" * 200_000}, status=201)


def test_connections_beyond_the_cap_are_turned_away(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.producer.connections.MOST_CONNECTIONS", 3)
    held: list[Any] = [connect(api) for _ in range(3)]
    with connect(api) as client:
        assert read_to_end(client).startswith(b"HTTP/1.1 503 ")
    for client in held:
        client.close()
    eventually(lambda: _one_is_free(api), 20)


def _one_is_free(api: Api) -> bool:
    with connect(api) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return b" 200 " in read_to_end(client)
