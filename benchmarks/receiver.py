"""The endpoint: nginx when it is installed, else `benchmarks.raw_receiver`; both only answer 200 and count."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from benchmarks.children import Child, free_port, python, running, wait_for

NGINX = """
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ return 200 "ok"; }}
        location = /count {{ stub_status; }}
    }}
}}
"""


class Receiver:
    """A running endpoint. `posts` is how many requests it took since `forget`."""

    def __init__(self, name: str, port: int, child: Child) -> None:
        self.name, self.child = name, child
        self.url = f"http://127.0.0.1:{port}/"
        self._session = requests.Session()
        self._session.trust_env = False
        self._not_counted = 0

    def requests(self) -> int:
        """All requests so far, this one included."""
        words = self._session.get(f"{self.url}count", timeout=5).text.split()
        return int(words[words.index("requests") + 3])

    def posts(self) -> int:
        self._not_counted += 1  # nginx counts our question too
        return self.requests() - self._not_counted

    def forget(self) -> None:
        self._not_counted = self.requests()

    def journal(self) -> list[tuple[str, int]]:
        """(event id, arrival on the monotonic clock in ns) of every POST; of the raw receiver only."""
        found: list[tuple[str, int]] = self._session.get(f"{self.url}journal", timeout=30).json()
        return found

    def answers(self) -> bool:
        try:
            return self.requests() > 0
        except requests.RequestException:
            return False


@contextmanager
def receiver(directory: Path) -> Iterator[Receiver]:
    """The cheapest endpoint that this machine has."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if nginx is None:
        with raw_receiver(directory) as raw:
            yield raw
        return
    port, own = free_port(), directory / "nginx"
    own.mkdir(exist_ok=True)
    (own / "nginx.conf").write_text(NGINX.format(directory=own, port=port))
    with running("nginx", [nginx, "-p", own, "-c", own / "nginx.conf", "-e", "stderr"], directory) as child:
        yield _up(Receiver("nginx, 1 worker", port, child))


@contextmanager
def raw_receiver(directory: Path) -> Iterator[Receiver]:
    """The one of ours, which also writes down when each event arrived."""
    port = free_port()
    with running("receiver", python("benchmarks.raw_receiver", str(port)), directory) as child:
        yield _up(Receiver("raw asyncio receiver", port, child))


def _up(found: Receiver) -> Receiver:
    wait_for(found.answers, 10, "the receiver answers", found.child)
    return found
