"""What a person waits for and what an idle aiia holds: pages in real Chromium, and ``/v1`` beside the model itself.

    python -m loadtests.product [--answers 20] [--seconds 20] [--write]

It starts an instance of its own in front of a fake model. Enter to the first painted word: in an open chat, with a
model that needs no time. Requests per second: 64 callers who always ask the next, 64 tokens at 50 per second, to the
model and through aiia in turns. Memory is that of the roles once they have been ready for a while, before anything was
asked.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import aiohttp
import psutil
from playwright.sync_api import Page

from loadtests import report
from loadtests.first_page import chromium, register
from loadtests.soak import make_key, until_ready
from tests.fakes import FakeUpstream
from tests.support.instance import Instance

_MODEL = "fake"
_STREAMS, _TOKENS, _PACE = 64, 64, 50
_DOCUMENT = """
apiVersion: aiia.dev/v1
kind: Model
metadata: {{name: {name}}}
spec:
  task: chat
  engine: openai
  source: {{url: "{url}", model: {name}}}
  scaling: {{maxInFlight: {slots}}}
"""
_IDLE_S = 20
# The browser's own time of the frame that showed the first word, from the key on.
_WATCH = """
() => {
  const words = () => [...document.querySelectorAll("article.message [data-blocks]")].filter(b => b.textContent.trim())
  const before = words().length
  let began = 0
  addEventListener("keydown", () => { began = performance.now() }, { once: true, capture: true })
  window.painted = new Promise((resolve) => {
    // Each picture of the answer until one is shown: the next may replace it before that.
    const look = new MutationObserver(() => {
      if (began && words().length > before) words().at(-1).querySelector("p").setAttribute("elementtiming", "word")
    })
    look.observe(document.body, { childList: true, subtree: true, characterData: true })
    new PerformanceObserver((list, shown) => {
      look.disconnect()
      shown.disconnect()
      resolve(list.getEntries()[0].renderTime - began)
    }).observe({ type: "element" })
  })
}
"""


def painted_ms(page: Page, number: int) -> float:
    """Milliseconds from Enter to the first word of the answer on the screen."""
    page.evaluate(_WATCH)
    page.fill("#composer textarea", f"Question {number}")
    page.keyboard.press("Enter")
    # Not by asking the page again and again, which it would have to answer while it works.
    took: float = page.evaluate("() => window.painted")
    # Until the title and the questions after it are there too: nobody asks on within milliseconds.
    page.wait_for_selector("article.message[data-stream]", state="detached")
    return took


def enter_to_word(url: str, answers: int) -> list[float]:
    with chromium() as browser:
        page = browser.new_context(storage_state=register(browser, url)).new_page()
        page.goto(f"{url}/")
        page.fill("#composer textarea", "Hello")
        page.keyboard.press("Enter")
        page.wait_for_selector("article.message[aria-busy=false]")
        return [painted_ms(page, number) for number in range(answers)]


async def rate(session: aiohttp.ClientSession, base_url: str, seconds: float) -> float:
    """Answers per second of 64 callers, each of which asks again as soon as it has its answer."""
    ended = 0
    body = {"model": _MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": _TOKENS}
    stop = time.monotonic() + seconds

    async def caller() -> None:
        nonlocal ended
        while time.monotonic() < stop:
            async with session.post(f"{base_url}/chat/completions", json=body) as response:
                response.raise_for_status()
                if not (await response.read()).endswith(b"data: [DONE]\n\n"):
                    raise RuntimeError("an answer without an end")
            ended += 1

    began = time.monotonic()
    await asyncio.gather(*(caller() for _ in range(_STREAMS)))
    return ended / (time.monotonic() - began)


async def rates(direct: str, ours: str, key: str, token: str, seconds: float) -> tuple[list[float], list[float]]:
    """Of the model and through aiia, three times each in turns. ``token`` is the installation's own."""
    await until_ready({"web": ours}, token, (_MODEL,))
    found: dict[str, list[float]] = {direct: [], ours: []}
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {key}"}, connector=aiohttp.TCPConnector(limit=0)
    ) as session:
        for base_url in (direct, ours) * 3:
            found[base_url].append(await rate(session, base_url, seconds))
    return found[direct], found[ours]


def memory_mb(instance: Instance) -> dict[str, float]:
    """What each role alone holds (USS), in MB; web has the gateway in it."""
    return {
        role: sum(process.memory_full_info().uss for process in [top, *top.children(recursive=True)]) / 1e6
        for role in ("web", "worker")
        for top in [psutil.Process(instance.pid(role))]
    }


def measure(folder: Path, answers: int, seconds: float) -> str:
    with FakeUpstream(models=[_MODEL], tokens=_TOKENS) as upstream, Instance(folder, no_models=True) as instance:
        instance.data.models.mkdir(parents=True, exist_ok=True)
        document = _DOCUMENT.format(name=_MODEL, url=upstream.base_url, slots=_STREAMS)
        (instance.data.models / "fake.yaml").write_text(document)
        instance.wait_ready(timeout=120)
        time.sleep(_IDLE_S)
        held = memory_mb(instance)
        painted = enter_to_word(instance.address, answers)
        upstream.control(tokens_per_second=_PACE)
        token = (instance.data.secrets / "internal-token").read_text().strip()
        key = make_key(instance, "load@example.org")
        direct, ours = asyncio.run(rates(upstream.base_url, f"{instance.address}/v1", key, token, seconds))
    rows = [
        ["Enter to the first painted word, p50", f"{statistics.median(painted):.0f} ms", "at most 100 ms"],
        ["the same, worst", f"{max(painted):.0f} ms", ""],
        ["64 streams, the model alone", f"{statistics.median(direct):.1f} requests/s", ""],
        ["64 streams, through aiia", f"{statistics.median(ours):.1f} requests/s", "at least 49 of 50"],
        *([f"{role}, idle", f"{mb:.0f} MB", ""] for role, mb in held.items()),
        ["both", f"{sum(held.values()):.0f} MB", "at most 400 MB"],
    ]
    return report.table(["", "measured", "aim"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=20, help="that are waited for in the page")
    parser.add_argument("--seconds", type=float, default=20, help="of each round of the streams")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    machine = report.machine()
    with tempfile.TemporaryDirectory() as folder:
        text = f"{machine} just before.\n\n{measure(Path(folder) / 'data', options.answers, options.seconds)}"
    print(text)
    if options.write:
        report.write("product", text)


if __name__ == "__main__":
    main()
