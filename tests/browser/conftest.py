"""One running product on embedded files, and one browser signed in as its admin."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from services.cli.client import Api
from tests.browser.chromium import WIDE, Browser
from tests.servers import free_port
from tests.servers.processes import CannotHave
from tests.stack import Stack

KEY = "hari_" + "k" * 32
PASSWORD = "correct horse battery"


@dataclass(frozen=True)
class Product:
    url: str
    api: Api


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    directory = tmp_path_factory.mktemp("hari")
    url = f"http://127.0.0.1:{(port := free_port())}"
    settings = {
        "HARI_PRODUCER_BIND": f"127.0.0.1:{port}",
        "HARI_BOOTSTRAP_API_KEY": KEY,
        "HARI_ADMIN_PASSWORD": PASSWORD,
        "HARI_DATA_DIR": str(directory),
        "HARI_RETRY_SCHEDULE": "500ms,1h",
        "HARI_EGRESS_ALLOW": "127.0.0.0/8",
    }
    with Stack(settings, directory) as stack:
        process = stack.start("up").wait_ready()
        yield Product(url, Api(url, KEY))
        assert process.stop() == 0


@pytest.fixture(scope="session")
def chromium(product: Product) -> Iterator[Browser]:
    try:
        browser = Browser(product.url)
    except CannotHave as reason:
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(str(reason), pytrace=False)
        pytest.skip(f"NOT RUN: {reason}")
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium: Browser, product: Product) -> Iterator[Browser]:
    """Signed in as admin, on a wide window, light; afterwards the console must have been silent."""
    chromium.size(WIDE)
    chromium.scheme("light")
    chromium.driver.delete_all_cookies()
    chromium.sign_in("admin", PASSWORD)
    chromium.sees("Webhooks")
    yield chromium
    assert chromium.complaints() == []
    for webhook in product.api.call("GET", "/webhooks")["data"]:
        product.api.call("DELETE", f"/webhooks/{webhook['id']}")
