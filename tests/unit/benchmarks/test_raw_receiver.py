"""The journaling endpoint's own HTTP: requests in pieces, several in one, and what is written down."""

import asyncio
from typing import Any

from benchmarks.raw_receiver import OK, Endpoint

POST = b'POST / HTTP/1.1\r\nHost: x\r\ncontent-length: 15\r\n\r\n{"id":"evt_%d"} '


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))


def an_endpoint() -> tuple[Endpoint, FakeTransport]:
    endpoint, transport = Endpoint([]), FakeTransport()
    endpoint.connection_made(transport)
    return endpoint, transport


def test_a_request_in_pieces_is_answered_once_and_only_when_whole() -> None:
    endpoint, transport = an_endpoint()
    whole = POST % 1
    for at in range(len(whole)):
        assert transport.written == []
        endpoint.data_received(whole[at : at + 1])
    assert transport.written == [OK]
    assert [event_id for event_id, _ in endpoint.journal] == ["evt_1"]


def test_two_requests_in_one_piece_are_both_journaled() -> None:
    endpoint, transport = an_endpoint()
    endpoint.data_received(POST % 1 + POST % 2)
    assert transport.written == [OK, OK]
    assert [event_id for event_id, _ in endpoint.journal] == ["evt_1", "evt_2"]
    first_ns, second_ns = (at_ns for _, at_ns in endpoint.journal)
    assert 0 < first_ns <= second_ns


def test_the_count_includes_the_question() -> None:
    endpoint, transport = an_endpoint()
    before = Endpoint.requests
    endpoint.data_received(POST % 1 + b"GET /count HTTP/1.1\r\n\r\n")
    words = transport.written[-1].split()
    assert int(words[words.index(b"requests") + 3]) == before + 2
