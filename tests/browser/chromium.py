"""Debian's Chromium without a window, and what tests ask of it: find by words, axe, screenshots."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

from tests.servers.packages import apt_install
from tests.servers.processes import CannotHave
from tests.waiting import eventually

AXE = (Path(__file__).with_name("vendor") / "axe-4.10.2.min.js").read_text()
WIDE, NARROW = (1200, 760), (360, 900)


def _installed(command: str, package: str) -> str:
    if shutil.which(command) is None:
        apt_install(package)
    found = shutil.which(command)
    if found is None:
        raise CannotHave(f"there is no {command}; Debian's package {package} has it")
    return found


class Browser:
    """One Chromium. `url` is the product's; paths are relative to it."""

    def __init__(self, url: str) -> None:
        self.url = url
        options = webdriver.ChromeOptions()
        options.binary_location = _installed("chromium", "chromium")
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
            options.add_argument(argument)
        for argument in ("--hide-scrollbars", "--disable-background-networking", "--proxy-server=direct://"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(_installed("chromedriver", "chromium-driver")))
        self.driver.set_page_load_timeout(30)
        self.size(WIDE)

    def close(self) -> None:
        self.driver.quit()

    def size(self, size: tuple[int, int]) -> None:
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def scheme(self, name: str) -> None:
        """`light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    @contextmanager
    def without_javascript(self) -> Iterator[None]:
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        yield
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})

    def open(self, path: str) -> None:
        self.driver.get(self.url + path)

    @property
    def path(self) -> str:
        return self.driver.current_url.removeprefix(self.url)

    @property
    def text(self) -> str:
        """What the page says now, on one line; "" while another one loads."""
        try:
            return " ".join(self.driver.find_element(By.TAG_NAME, "body").text.split())
        except (StaleElementReferenceException, WebDriverException):
            return ""

    def sees(self, pattern: str, within_s: float = 15) -> str:
        """Wait until the page says this; returns what matched."""
        found = eventually(lambda: re.search(pattern, self.text), within_s, f"{pattern!r} on {self.path}")
        assert found is not None
        return found[0]

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def one(self, css: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def field(self, label: str) -> WebElement:
        """The field that this label names."""
        for found in self.all("label"):
            if found.text.startswith(label):
                return self.driver.find_element(By.ID, found.get_attribute("for") or "")
        raise AssertionError(f"no field {label!r} on {self.path}: {self.text}")

    def fill(self, **fields: str) -> None:
        """Type into fields, named by their labels with _ for a blank; into a choice, its words."""
        for label, text in fields.items():
            field = self.field(label.replace("_", " "))
            if field.tag_name == "select":
                Select(field).select_by_visible_text(text)
            else:
                field.clear()
                field.send_keys(text)

    def press(self, words: str) -> None:
        """Click the button or link that bears these words, as text or as accessible name."""
        for found in self.all("button, a, summary"):
            if words in (found.text.strip(), found.get_attribute("aria-label")):
                found.click()
                return
        raise AssertionError(f"no button {words!r} on {self.path}: {self.text}")

    def sign_in(self, name: str, password: str) -> None:
        self.open("/")
        self.fill(Name=name, Password=password)
        self.press("Sign in")

    def complaints(self) -> list[str]:
        """What the console has said since last asked, but for answers that a test means: forms refused with 422."""
        said = [str(entry["message"]) for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]
        return [line for line in said if "status of 422" not in line]

    def accessibility(self) -> list[str]:
        """What axe finds that is serious or critical, one line each."""
        self.driver.execute_script(AXE)  # type: ignore[no-untyped-call]
        run = "const done = arguments[0]; axe.run(document).then(done, (e) => done({error: String(e)}))"
        found: dict[str, Any] = self.driver.execute_async_script(run)  # type: ignore[no-untyped-call]
        assert "violations" in found, found
        return [
            f"{self.path}: {fault['id']}: {fault['help']}: {[node['html'] for node in fault['nodes']]}"
            for fault in found["violations"]
            if fault["impact"] in ("serious", "critical")
        ]

    def overflow(self) -> int:
        """How many pixels the page is wider than the window."""
        script = "return document.scrollingElement.scrollWidth - document.documentElement.clientWidth"
        found: int = self.driver.execute_script(script)  # type: ignore[no-untyped-call]
        return found

    def picture(self, name: str) -> None:
        """A screenshot, if HARI_TEST_SCREENSHOTS names a directory for them."""
        directory = os.environ.get("HARI_TEST_SCREENSHOTS")
        if directory:
            Path(directory).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(directory) / f"{name}.png"))
