"""The resolver's cache, its single flight and its deadline; lookups are stubs."""

import asyncio
import socket
import threading
from collections.abc import Callable

import pytest

from services.dispatcher.resolve import Resolver
from shared import dns
from tests.waiting import eventually_async, run


class Names:
    """A stub for the system's resolver: counts, and can be told to hang."""

    def __init__(self, *answers: tuple[str, ...] | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.let_go = threading.Event()
        self.let_go.set()

    def __call__(self, host: str) -> tuple[str, ...]:
        self.asked.append(host)
        assert self.let_go.wait(10)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_an_answer_is_kept_for_its_time_and_no_longer() -> None:
    names, clock = Names(("192.0.2.1",), ("192.0.2.2",)), Clock()

    async def scene() -> None:
        resolver = Resolver(names, clock=clock)
        assert await resolver("a.test", 5) == ("192.0.2.1",)
        clock.now += 59.9
        assert await resolver("a.test", 5) == ("192.0.2.1",)
        clock.now += 0.2
        assert await resolver("a.test", 5) == ("192.0.2.2",)
        assert names.asked == ["a.test", "a.test"]

    run(scene())


@pytest.mark.parametrize(
    "failure",
    [socket.gaierror(-2, "Name or service not known"), (), UnicodeError("label too long")],
    ids=["no such name", "no address", "not a name"],
)
def test_a_failure_is_an_os_error_and_kept_for_seconds(failure: tuple[str, ...] | Exception) -> None:
    names, clock = Names(failure, ("192.0.2.1",)), Clock()

    async def scene() -> None:
        resolver = Resolver(names, clock=clock)
        for _ in range(2):
            with pytest.raises(OSError, match=r"not known|no address|label too long"):
                await resolver("a.test", 5)
        assert len(names.asked) == 1
        clock.now += 5
        assert await resolver("a.test", 5) == ("192.0.2.1",)

    run(scene())


def test_many_callers_share_one_query() -> None:
    names = Names(("192.0.2.1",))
    names.let_go.clear()

    async def scene() -> None:
        resolver = Resolver(names)
        callers = [asyncio.create_task(resolver("a.test", 5)) for _ in range(50)]
        await eventually_async(lambda: names.asked)
        names.let_go.set()
        assert set(await asyncio.gather(*callers)) == {("192.0.2.1",)}
        assert names.asked == ["a.test"]

    run(scene())


def test_a_caller_whose_time_is_up_leaves_the_query_to_the_others() -> None:
    names = Names(("192.0.2.1",))
    names.let_go.clear()

    async def scene() -> None:
        resolver = Resolver(names)
        patient = asyncio.create_task(resolver("a.test", 10))
        with pytest.raises(TimeoutError):
            await resolver("a.test", 0.01)
        names.let_go.set()
        assert await patient == ("192.0.2.1",)
        assert names.asked == ["a.test"]

    run(scene())


def test_a_name_that_hangs_does_not_hold_up_another() -> None:
    hangs = threading.Event()

    def lookup(host: str) -> tuple[str, ...]:
        if host == "slow.test":
            assert hangs.wait(10)
        return ("192.0.2.1",)

    async def scene() -> None:
        resolver = Resolver(lookup)
        stuck = [asyncio.create_task(resolver("slow.test", 10)) for _ in range(20)]
        assert await resolver("quick.test", 10) == ("192.0.2.1",)
        assert not any(task.done() for task in stuck)
        hangs.set()
        await asyncio.gather(*stuck)

    run(scene())


def test_queries_at_once_are_bounded() -> None:
    names = Names(("192.0.2.1",))
    names.let_go.clear()

    async def scene() -> None:
        resolver = Resolver(names, most_queries=3)
        callers = [asyncio.create_task(resolver(f"{n}.test", 10)) for n in range(10)]
        await eventually_async(lambda: len(names.asked) == 3)
        names.let_go.set()
        await asyncio.gather(*callers)
        assert len(names.asked) == 10

    run(scene())


def test_close_with_a_query_that_hangs() -> None:
    names = Names(("192.0.2.1",))
    names.let_go.clear()

    async def scene() -> None:
        resolver = Resolver(names)
        caller = asyncio.create_task(resolver("a.test", 10))
        await eventually_async(lambda: names.asked)
        await resolver.close()
        with pytest.raises(asyncio.CancelledError):
            await caller

    run(scene())
    names.let_go.set()  # its thread finds the loop closed, and says nothing


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        pytest.param("example.com", "example.com.", id="a dotted name is asked with its final dot"),
        pytest.param("crm", "crm", id="a single label as it stands"),
        pytest.param("host.docker.internal", "host.docker.internal", id="a local domain as it stands"),
        pytest.param("a.localhost", "a.localhost", id="under localhost as it stands"),
        pytest.param("internal.example.com", "internal.example.com.", id="local elsewhere in the name means nothing"),
    ],
)
def test_no_search_domain_is_tried(host: str, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def getaddrinfo(name: str, *_more: object, **_named: object) -> list[tuple[object, ...]]:
        seen.append(name)
        addresses = ["192.0.2.1", "2001:db8::1", "192.0.2.1"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert dns.lookup(host) == ("192.0.2.1", "2001:db8::1")
    assert seen == [asked]


def test_localhost_by_the_real_resolver() -> None:
    lookup: Callable[[str], tuple[str, ...]] = dns.lookup
    assert "127.0.0.1" in run(Resolver(lookup)("localhost", 10))
