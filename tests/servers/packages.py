"""What can be installed on the spot: Debian packages when root, wheels from PyPI, a Docker engine if one answers."""

import functools
import gc
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

from tests.servers.processes import CannotHave


@functools.cache
def docker_answers() -> bool:
    """Whether a Docker engine answers within two seconds; not without its library, which is a test extra."""
    try:
        import docker  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return False

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            client = docker.from_env(timeout=2)
            answers = bool(client.ping())
            client.close()
        except Exception:  # whatever is wrong with the engine, we do without
            answers = False
        gc.collect()  # a client that failed leaves its socket to the collector, which would warn in some later test
    return answers


@functools.cache
def apt_install(package: str) -> None:
    """Install a Debian package. Raises CannotHave when not root, not Debian, or apt fails.

    A service that the package cannot start (containers deny it) makes apt-get fail although the files are in place:
    callers look for the files and not for this function's success.
    """
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise CannotHave(f"{package} is not installed, and only root on Debian or Ubuntu can apt-get install it")
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", package]
    if subprocess.run(install, env=environ, capture_output=True).returncode != 0:
        subprocess.run(["apt-get", "update", "-q"], env=environ, capture_output=True)
        subprocess.run(install, env=environ, capture_output=True)


def pip_install(package: str, target: Path) -> None:
    """Unpack a wheel, without its dependencies, under `target`. Raises CannotHave with pip's last line."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary=:all:", "--target", target]
    done = subprocess.run([*map(str, command), package], capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotHave(f"pip cannot install {package}: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
