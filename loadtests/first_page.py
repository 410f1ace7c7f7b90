"""What the first page costs a browser that has never been here: requests and bytes, in real Chromium.

    python -m loadtests.first_page [--url http://127.0.0.1:8000]

Without `--url` it starts an instance of its own. Registers a new person, then opens the login page and the empty chat
with an empty cache each. Ends with 1 when a page is over the budget.
"""

import argparse
import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

MAX_REQUESTS = 12
MAX_BYTES = 120_000
#: Milliseconds of quiet after which nothing more is expected.
SETTLED = 1500


@dataclass
class Cost:
    """Requests and bytes over the wire, headers included, and when the page could be read."""

    path: str
    requests: int
    bytes: int
    first_paint_ms: int


def measure(browser: Browser, url: str, path: str, state: Any = None) -> Cost:
    """Open one page with an empty cache. `state` is the storage of a signed-in browser."""
    context = browser.new_context(storage_state=state)
    page = context.new_page()
    wire = context.new_cdp_session(page)
    wire.send("Network.enable")
    wire.send("Network.setCacheDisabled", {"cacheDisabled": False})
    requests: set[str] = set()
    sizes: dict[str, float] = {}
    wire.on("Network.requestWillBeSent", lambda event: requests.add(event["requestId"]))
    wire.on("Network.loadingFinished", lambda event: sizes.update({event["requestId"]: event["encodedDataLength"]}))
    page.goto(url + path, wait_until="load")
    page.wait_for_timeout(SETTLED)
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1")
    context.close()
    return Cost(path, len(requests), int(sum(sizes.values())), round(paint))


def register(browser: Browser, url: str) -> Any:
    """A new person; the storage of their browser."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{url}/accounts/signup/")
    page.fill("[name=username]", f"first-{secrets.token_hex(4)}")
    page.fill("[name=password1]", secrets.token_urlsafe(16))
    page.click("main button[type=submit]")
    page.wait_for_selector("#composer")
    state = context.storage_state()
    context.close()
    return state


def costs(browser: Browser, url: str) -> list[Cost]:
    """The login page and the empty chat."""
    state = register(browser, url)
    return [measure(browser, url, "/accounts/login/"), measure(browser, url, "/", state)]


def is_cheap(cost: Cost) -> bool:
    """Whether a page is within the budget."""
    return cost.requests <= MAX_REQUESTS and cost.bytes <= MAX_BYTES


@contextmanager
def instance() -> Iterator[str]:
    """The address of an aiia of our own, without models."""
    from tests.support.instance import Instance

    with tempfile.TemporaryDirectory() as folder, Instance(Path(folder) / "data", no_models=True) as running:
        running.wait_ready("web", timeout=120)
        yield running.address


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser of the tests."""
    path = os.environ.get("AIIA_TEST_BROWSER") or shutil.which("chromium")
    args = ["--no-sandbox", "--disable-background-networking", "--disable-gpu", "--no-first-run"]
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=path, args=args) as browser:
        yield browser


def report(url: str) -> bool:
    """Measure, print, and say whether every page is within the budget."""
    with chromium() as browser:
        found = costs(browser, url)
    for cost in found:
        print(json.dumps(asdict(cost)))
    return all(map(is_cheap, found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="address of a running aiia that is open for registration")
    url = parser.parse_args().url
    with nullcontext(url.rstrip("/")) if url else instance() as address:
        is_within = report(address)
    sys.exit(0 if is_within else 1)


if __name__ == "__main__":
    main()
