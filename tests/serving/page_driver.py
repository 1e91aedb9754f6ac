"""A headless Chromium and the web page in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.harness import DEADLINE, Running

BUS = "<ref>the bus</ref><box>(178,279),(806,884)</box>"
TWO = f"{BUS}<box>(10,20),(110,120)</box> and <ref>a cup</ref><box>(500,100),(700,300)</box>."
HOSTILE = "<img src=x onerror='hacked=1'><script>hacked=1</script><ref><b>bold</b></ref><box>(1,2),(3,4)</box>"
SLOW = 0.05  # seconds of a token

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
_ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking",
    "--no-first-run", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--window-size=1200,900",
)  # fmt: skip
_STATUS = "Failed to load resource"  # how the console tells of an answer with an error, and of no answer


def browser_or_skip() -> Any:
    """A browser; skips without Chromium and Selenium, and fails instead when PADDLEMIX_REQUIRE_BROWSER=1."""
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        webdriver = None
    if webdriver is None or CHROMIUM is None or CHROMEDRIVER is None:
        message = "the web page is tested with selenium and Debian's chromium and chromium-driver, which are not here"
        if os.environ.get("PADDLEMIX_REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in _ARGUMENTS:
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"intl.accept_languages": "en"})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    browser.set_script_timeout(DEADLINE)
    return browser


class Page:
    """The page of a server, in a browser that knows nothing of earlier tests."""

    def __init__(self, browser: Any, url: str, downloads: Path) -> None:
        self.browser = browser
        self.url = url
        self.downloads = downloads
        self.tell("Storage.clearDataForOrigin", origin=url, storageTypes="all")
        self.tell("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        self.tell("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
        self.tell("Emulation.setLocaleOverride")
        self.resize(1200, 900)
        browser.get_log("browser")  # those of earlier tests

    def tell(self, command: str, **arguments: Any) -> Any:
        """Chromium's own protocol."""
        return self.browser.execute_cdp_cmd(command, arguments)

    def resize(self, width: int, height: int) -> None:
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, state: str = "ready") -> Page:
        """Load the page, anew where it is open."""
        self.browser.get(self.url)
        self.wait(f"document.getElementById('status').dataset.state === {state!r}")
        return self

    def js(self, expression: str, *arguments: Any) -> Any:
        """The value of an expression."""
        return self.browser.execute_script(f"return {expression}", *arguments)

    def run(self, body: str, *arguments: Any) -> Any:
        """What the body of an async function returns; ``a`` is the list of arguments."""
        script = f"const done = arguments[arguments.length - 1], a = arguments; (async () => {{ {body} }})().then(done)"
        return self.browser.execute_async_script(script, *arguments)

    def wait(self, expression: str, *arguments: Any) -> Any:
        """Wait until an expression is true, and return its value."""
        end = time.monotonic() + DEADLINE
        while True:
            value = self.js(expression, *arguments)
            if value:
                return value
            assert time.monotonic() < end, f"it did not happen: {expression}\n{self.text('.main')}"
            time.sleep(0.02)

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        """The text of the last element that fits, as a person reads it."""
        return self.js("[...document.querySelectorAll(arguments[0])].pop()?.innerText ?? ''", selector)

    def click(self, selector: str) -> None:
        """Click on the last element that fits."""
        self.wait("document.querySelector(arguments[0])", selector)
        self.all(selector)[-1].click()

    def named(self, name: str) -> str:
        """The selector of a button by its name."""
        return f'button[aria-label="{name}"]'

    def actions(self) -> Any:
        from selenium.webdriver.common.action_chains import ActionChains

        return ActionChains(self.browser, duration=0)

    def type(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        self.actions().send_keys(*keys).perform()

    def ask(self, text: str, wait: bool = True) -> None:
        """Send a question, and wait for the end of the answer."""
        before = len(self.all(".answer"))
        self.one("#question").send_keys(text + "\n")
        self.wait("document.querySelectorAll('.answer').length > arguments[0]", before)
        if wait:
            self.settle()

    def settle(self) -> None:
        """Wait until no answer is being written."""
        self.wait("!document.getElementById('send').hidden && document.querySelector('.answer .actions button')")

    def choose(self, *files: Path) -> None:
        """Choose files as images."""
        self.one("#files").send_keys("\n".join(map(str, files)))

    def downloaded(self, pattern: str) -> Path:
        """The file that was downloaded."""
        end = time.monotonic() + DEADLINE
        while not (found := [path for path in self.downloads.glob(pattern) if path.stat().st_size]):
            assert time.monotonic() < end, f"no {pattern} came"
            time.sleep(0.02)
        return found[0]

    def clipboard(self) -> str:
        return self.run("return navigator.clipboard.readText()")

    def check(self) -> None:
        """No error was told in the console, and nothing came from elsewhere."""
        told = [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert [message for message in told if _STATUS not in message] == []
        addresses = self.js("performance.getEntriesByType('resource').map(entry => entry.name)")
        assert [address for address in addresses if not address.startswith((self.url, "data:", "blob:"))] == []


@contextlib.contextmanager
def preloaded(page: Page, script: str) -> Iterator[None]:
    """Run a script before those of the page, each time it is loaded."""
    known = page.tell("Page.addScriptToEvaluateOnNewDocument", source=script)
    try:
        yield
    finally:
        page.tell("Page.removeScriptToEvaluateOnNewDocument", identifier=known["identifier"])


def prompt(server: Running) -> str:
    """The newest request's prompt as text."""
    tokenizer = server.engine.tokenizer
    return b"".join(map(tokenizer.token_bytes, server.engine.seen[-1].prompt_ids)).decode()
