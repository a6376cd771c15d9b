"""Asks the process that serves HARI_METRICS_BIND on this host whether it is ready. Standard library only.

`python -m services.cli.health` is the containers' health check: every few seconds in each of them, where the imports of
the whole `hari` command would cost a core.
"""

import http.client
import os
import sys

DEFAULT = ("127.0.0.1", 9464)
TIMEOUT_S = 3
_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not bound to


def check(bind: tuple[str, int]) -> int:
    """Print what it answers; 0 when it is ready, else 1."""
    host, port = bind
    connection = http.client.HTTPConnection(_LOOPBACK_OF.get(host, host), port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        print(answer.read().decode().strip())
        return 0 if answer.status == 200 else 1
    except (OSError, http.client.HTTPException) as error:
        print(f"not running: {type(error).__name__}")
        return 1
    finally:
        connection.close()


def _bind() -> tuple[str, int]:
    host, _, port = os.environ.get("HARI_METRICS_BIND", "").rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() else DEFAULT


if __name__ == "__main__":
    sys.exit(check(_bind()))
