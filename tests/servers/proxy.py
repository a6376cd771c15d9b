"""A TCP proxy between us and a server, to make a network that is silent or cuts connections."""

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit


class Proxy:
    """Passes bytes on to the server of `url` until it is frozen; `self.url` is the same address through the proxy."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = ""

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        login = self._target.netloc.rpartition("@")[0]
        self.url = urlunsplit(
            self._target._replace(netloc=f"{login}@127.0.0.1:{port}" if login else f"127.0.0.1:{port}")
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.thaw()
        self.cut()
        while self._writers:
            await asyncio.sleep(0.01)

    def freeze(self) -> None:
        """Pass nothing on any more; connections stay open, as on a network that swallows packets."""
        self._open.clear()

    def thaw(self) -> None:
        self._open.set()

    def cut(self) -> None:
        """Break every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
            self._writers.add(far_writer)
            await asyncio.gather(self._pass_on(reader, far_writer), self._pass_on(far_reader, writer))
            self._writers.discard(far_writer)
        writer.transport.abort()
        self._writers.discard(writer)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(1 << 16):
                await self._open.wait()
                writer.write(piece)
                await writer.drain()
        writer.transport.abort()
