"""RabbitMQ for tests: given by URL, in Docker, or installed and started as a private instance."""

import atexit
import os
import shutil
import socket
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from tests.servers.packages import apt_install, docker_answers
from tests.servers.processes import CannotHave, Group, free_port, last_lines

IMAGE = "rabbitmq:4-management"
START_S = 90
SYNC = "[dets:sync(Table) || Table <- dets:all()]."
_PLACES = (Path("/usr/lib/rabbitmq/bin"), Path("/opt/homebrew/opt/rabbitmq/sbin"), Path("/usr/local/opt/rabbitmq/sbin"))


class OwnRabbitMQ:
    """A private instance of the installed RabbitMQ: the test that owns it may kill it. The URL outlives restarts."""

    def __init__(self, source: str = "installed") -> None:
        self._bin = _installed()
        self._group = Group("rabbitmq")
        self._port, self._api_port, self._dist_port, self._epmd_port = (free_port() for _ in range(4))
        self.url = f"amqp://guest:guest@127.0.0.1:{self._port}/%2F"
        self.api_url = f"http://guest:guest@127.0.0.1:{self._api_port}/api"
        self.source = f"RabbitMQ {_version(self._bin)}, {source}, private instance on port {self._port}"
        self._log = self._group.directory / "server.log"
        self._write_configuration()
        atexit.register(self.stop)

    def start(self) -> "OwnRabbitMQ":
        """Start, and wait until it speaks AMQP. Raises CannotHave with the end of its log."""
        directory = self._group.directory
        # Its own epmd in the foreground: one started by erl would detach itself and stay behind.
        self._group.start([shutil.which("epmd") or "epmd", "-port", str(self._epmd_port)], self._environ(), self._log)
        _wait(lambda: _listens(self._epmd_port), lambda: True, self._log)
        nice = [shutil.which("nice") or "nice", "-n", "5"]
        server = self._group.start([*nice, self._bin / "rabbitmq-server"], self._environ(), directory / "server.log")
        _wait(lambda: speaks_amqp("127.0.0.1", self._port), lambda: server.poll() is None, self._log)
        return self

    def kill(self) -> None:
        """SIGKILL; the data stays, and `restart` finds it."""
        self._group.kill()

    def restart(self) -> "OwnRabbitMQ":
        """Start again on the same port with the same data, after `kill` or as a crash."""
        self.kill()
        return self.start()

    def stop(self) -> None:
        """Kill it and remove its data."""
        self._group.close()
        atexit.unregister(self.stop)

    def ctl(self, *words: str) -> str:
        """Run rabbitmqctl against this instance and return what it printed."""
        command = [str(self._bin / "rabbitmqctl"), "--quiet", *words]
        return subprocess.run(command, env=self._environ(), check=True, capture_output=True, text=True).stdout

    def logs(self) -> list[Path]:
        """What it and its parts wrote."""
        return [self._log, *sorted((self._group.directory / "logs").glob("*.log"))]

    def sync(self) -> None:
        """Write what RabbitMQ itself writes only every half second: without it, a kill soon after a declare leaves
        quorum queues that exist and never get a leader (their directory is a DETS table)."""
        self.ctl("eval", SYNC)

    def _write_configuration(self) -> None:
        (self._group.directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self._port}\n"
            f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {self._api_port}\n"
            "management_agent.disable_metrics_collector = true\n"
            "disk_free_limit.absolute = 50MB\n"
            "raft.wal_max_size_bytes = 67108864\n"
            "log.file.level = warning\n"
        )
        (self._group.directory / "enabled_plugins").write_text("[rabbitmq_management].\n")

    def _environ(self) -> dict[str, str]:
        directory = self._group.directory
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
        return kept | {
            "HOME": str(directory),  # the Erlang cookie
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(directory / "generated"),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "logs"),
            "RABBITMQ_NODENAME": f"hari{self._port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CTL_DIST_PORT_MIN": str(self._dist_port + 1),
            "RABBITMQ_CTL_DIST_PORT_MAX": str(self._dist_port + 20),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
        }


class DockerRabbitMQ:
    """The same in a container, on a fixed port so that the URL outlives restarts."""

    def __init__(self) -> None:
        self._port, self._api_port = free_port(), free_port()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from testcontainers.community.rabbitmq import RabbitMqContainer

            self._container: Any = RabbitMqContainer(IMAGE, username="guest", password="guest")
        self._container.with_bind_ports(5672, self._port).with_bind_ports(15672, self._api_port)
        self.url, self.api_url, self.source = "", "", f"{IMAGE} in Docker, port {self._port}"
        atexit.register(self.stop)

    def start(self) -> "DockerRabbitMQ":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self._container.start()
            except Exception as error:
                self.stop()
                raise CannotHave(f"Docker cannot run {IMAGE}: {error}") from error
        host = self._container.get_container_host_ip()
        self.url = f"amqp://guest:guest@{host}:{self._port}/%2F"
        self.api_url = f"http://guest:guest@{host}:{self._api_port}/api"
        return self

    def kill(self) -> None:
        self._container.get_wrapped_container().kill()

    def restart(self) -> "DockerRabbitMQ":
        container = self._container.get_wrapped_container()
        container.reload()
        if container.status == "running":
            container.kill()
        container.start()
        host = self._container.get_container_host_ip()
        _wait(lambda: speaks_amqp(host, self._port), lambda: True, Path("docker logs"))
        return self

    def stop(self) -> None:
        with suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._container.stop()
        atexit.unregister(self.stop)

    def ctl(self, *words: str) -> str:
        status, output = self._container.get_wrapped_container().exec_run(["rabbitmqctl", "--quiet", *words])
        if status != 0:
            raise RuntimeError(output.decode())
        return str(output.decode())

    def sync(self) -> None:
        self.ctl("eval", SYNC)


class GivenRabbitMQ:
    """The one that HARI_TEST_BROKER_URL names: used, never started or stopped."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url, self.source = url, f"HARI_TEST_BROKER_URL ({parts.hostname}:{parts.port or 5672})"
        # Without the management plugin's API the tests' queues stay behind.
        login = f"{parts.username}:{parts.password}@" if parts.username else ""
        self.api_url = os.environ.get("HARI_TEST_BROKER_API_URL", f"http://{login}{parts.hostname}:15672/api")

    def stop(self) -> None:
        """Not ours."""


Own = OwnRabbitMQ | DockerRabbitMQ


def own_rabbitmq() -> Own:
    """A started server that belongs to the caller, who stops it. Raises CannotHave with every reason."""
    return _first_of(_sources())


def rabbitmq_for_tests() -> Own | GivenRabbitMQ:
    """The server for the whole run: the one given by environment, else one of our own. Raises CannotHave."""
    given = os.environ.get("HARI_TEST_BROKER_URL")
    return GivenRabbitMQ(given) if given else own_rabbitmq()


def delete_by_prefix(server: Own | GivenRabbitMQ, prefix: str) -> None:
    """Delete every queue and exchange whose name starts with `prefix`, through the management plugin if it is there."""
    vhost = urlsplit(server.url).path.lstrip("/") or "%2F"
    with requests.Session() as session, suppress(requests.ConnectionError):
        for kind in ("queues", "exchanges"):
            listed = session.get(f"{server.api_url}/{kind}/{vhost}?disable_stats=true", timeout=10)
            for name in [entry["name"] for entry in listed.json()] if listed.ok else ():
                if name.startswith(prefix):
                    session.delete(f"{server.api_url}/{kind}/{vhost}/{quote(name, safe='')}", timeout=10)


def speaks_amqp(host: str, port: int) -> bool:
    """Whether something on that port answers an AMQP 0-9-1 protocol header."""
    with suppress(OSError), socket.create_connection((host, port), timeout=2) as client:
        client.sendall(b"AMQP\x00\x00\x09\x01")
        return client.recv(1) == b"\x01"
    return False


def _sources() -> Iterator[Callable[[], Own]]:
    if docker_answers():
        yield DockerRabbitMQ
    yield OwnRabbitMQ
    yield _from_apt


def _from_apt() -> OwnRabbitMQ:
    apt_install("rabbitmq-server")
    return OwnRabbitMQ("from apt-get")


def _first_of(sources: Iterator[Callable[[], Own]]) -> Own:
    reasons = []
    for make in sources:
        try:
            return make().start()
        except CannotHave as reason:
            reasons.append(str(reason))
    raise CannotHave("; ".join(reasons))


def _installed() -> Path:
    """The directory of RabbitMQ's own scripts; Debian's wrappers in /usr/sbin insist on the user rabbitmq."""
    on_path = shutil.which("rabbitmq-server")
    places = [*_PLACES, Path(on_path).resolve().parent] if on_path else [*_PLACES]
    for place in places:
        if (place / "rabbitmq-server").exists():
            return place
    raise CannotHave("rabbitmq-server is not installed")


def _version(place: Path) -> str:
    home = (place / "rabbitmq-server").resolve().parent.parent
    return home.name.removeprefix("rabbitmq_server-") if "-" in home.name else home.name


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _wait(ready: Callable[[], bool], alive: Callable[[], bool], log: Path) -> None:
    until = time.monotonic() + START_S
    while not ready():
        if not alive() or time.monotonic() > until:
            raise CannotHave(f"RabbitMQ did not start:\n{last_lines(log)}")
        time.sleep(0.05)
