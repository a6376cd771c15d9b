"""The bare loop: every message POSTed once and acked after its answer, so many at once; what it prints is read back."""

import asyncio
from collections.abc import Iterable

import pytest

from benchmarks.bare import post_all
from benchmarks.children import BenchError
from benchmarks.loops import HEADERS, printed
from shared.broker.port import Received
from shared.model import Outcome, Problem, Request

URL = "http://127.0.0.1:9/"


class FakeConsumer:
    def __init__(self, count: int) -> None:
        self.held = [Received("events", b"body %d" % no, "", {}, False, 1, no) for no in range(1, count + 1)]
        self.acked: list[bytes] = []

    async def next_batch(self, most: int, wait_s: float) -> list[Received]:
        assert most > 0
        assert self.held, "asked for more than there is"
        batch, self.held = self.held[:most], self.held[most:]
        return batch

    def ack(self, batch: Iterable[Received]) -> None:
        self.acked += [message.body for message in batch]

    async def pause(self) -> None: ...
    async def resume(self) -> None: ...
    async def stop(self) -> None: ...


@pytest.mark.parametrize("connections", [4, 32])
def test_each_message_is_posted_once_and_acked_when_it_is_answered(connections: int) -> None:
    consumer = FakeConsumer(20)
    posted: list[bytes] = []
    in_flight = most = 0

    async def send(request: Request) -> Outcome:
        nonlocal in_flight, most
        assert (request.url, request.headers) == (URL, HEADERS)
        posted.append(request.body)
        in_flight += 1
        most = max(most, in_flight)
        for _ in range(1 + len(posted) % 3):
            await asyncio.sleep(0)
            assert request.body not in consumer.acked
        in_flight -= 1
        return Outcome(status=200)

    seconds = asyncio.run(asyncio.wait_for(post_all(consumer, send, URL, 17, connections), 10))
    assert posted == [b"body %d" % no for no in range(1, 18)]
    assert sorted(consumer.acked) == sorted(posted)
    assert most == min(connections, 17)
    assert 0 < seconds < 10
    assert len(consumer.held) == 3


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        pytest.param(Outcome(status=503), "met 503", id="an answer that is no 200"),
        pytest.param(Outcome(problem=Problem.TIMEOUT, detail="no answer"), "met timeout no answer", id="no answer"),
    ],
)
def test_a_post_that_fails_ends_the_loop(outcome: Outcome, words: str) -> None:
    consumer = FakeConsumer(5)

    async def send(_request: Request) -> Outcome:
        return outcome

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(asyncio.wait_for(post_all(consumer, send, URL, 5, 2), 10))
    assert raised.group_contains(BenchError, match=words)
    assert consumer.acked == []


def test_the_result_is_the_last_line_printed() -> None:
    assert printed("bare", 'a warning\n{"seconds": 2.5, "cpu_s": 2}\n') == (2.5, 2.0)


@pytest.mark.parametrize("text", ["", "Killed", '{"seconds": 1}', "[]"])
def test_output_without_a_result_is_shown(text: str) -> None:
    with pytest.raises(BenchError, match=r"the lean loop printed no result") as raised:
        printed("lean", text)
    assert str(raised.value).endswith(text)
