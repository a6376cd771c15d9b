"""What a log line must never hold."""

import subprocess
import sys

import pytest

FAULT = """
from shared import logs
logs.set_up({log_format!r}, "test")
def fail():
    headers = ["X-Webhook-Secret: " + "hunter" + "2"]
    raise RuntimeError("broke")
try:
    fail()
except RuntimeError:
    logs.logger("hari.test").exception("attempt.broke")
    import logging
    logging.getLogger("uvicorn.error").exception("request broke")
"""


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_shows_no_local_variables(log_format: str) -> None:
    code = FAULT.format(log_format=log_format)
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert shown.count("RuntimeError: broke") == 2
    assert "hunter2" not in shown
