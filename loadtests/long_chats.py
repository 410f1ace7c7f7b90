"""How long a long chat takes to open, in real Chromium, and a search over many messages, over HTTP.

    python -m loadtests.long_chats [--messages 100000] [--write]

It starts an instance of its own without models, imports the chats through the page for that, and opens chats of 50,
1,000 and 5,000 messages in turns, each time in a browser with an empty cache: until the end of the chat is painted and
one can type. Searches are for one to three words, some rare and some in every message. ``--write`` puts the tables
into docs/benchmarks.md.
"""

import argparse
import json
import random
import statistics
import time
from typing import Any

from playwright.sync_api import Browser, BrowserContext

from loadtests import report
from loadtests.first_page import chromium, instance, register

_LENGTHS = (50, 1000, 5000)
_WORDS = [
    f"{a}{b}{c}" for a in ("ka", "lo", "mi", "ne", "pu") for b in ("ra", "so", "ti", "ve") for c in ("n", "s", "t")
]
_PER_CHAT = 500


def chat(title: str, length: int, words: random.Random) -> dict[str, Any]:
    """A chat in our export format. Every message has the word "everywhere", one in a thousand "seldom"."""
    rows = [
        {
            "id": str(number),
            "parent": str(number - 1) if number else "",
            "role": ("user", "assistant")[number % 2],
            "text": " ".join(["everywhere", *words.choices(_WORDS, k=60)])
            + (" seldom" if words.random() < 0.001 else "")
            + ("\n\n- one\n- two\n\n```python\nprint('three')\n```" if number % 2 else ""),
        }
        for number in range(length)
    ]
    return {"id": title, "title": title, "leaf": str(length - 1), "messages": rows}


def bring_in(context: BrowserContext, url: str, chats: list[dict[str, Any]]) -> None:
    page = context.new_page()
    page.goto(f"{url}/chats/import/")
    content = json.dumps({"format": "aiia-chats", "version": 1, "chats": chats}).encode()
    page.set_input_files("[name=file]", {"name": "chats.json", "mimeType": "application/json", "buffer": content})
    page.get_by_role("button", name="Import", exact=True).click(timeout=600_000)
    page.wait_for_url("**/chats/", timeout=600_000)
    page.close()


def address(context: BrowserContext, url: str, title: str) -> str:
    page = context.new_page()
    page.goto(f"{url}/chats/")
    path = page.get_attribute(f'main a:has-text("{title}")', "href")
    page.close()
    return f"{url}{path}"


def open_cold(browser: Browser, state: Any, chat_url: str) -> float:
    """Milliseconds until the end of the chat is painted and its composer takes text."""
    context = browser.new_context(storage_state=state)
    page = context.new_page()
    began = time.perf_counter()
    page.goto(chat_url, wait_until="commit")
    page.locator("article.message").last.wait_for(state="visible")
    page.locator("#composer textarea").fill("a")
    took = (time.perf_counter() - began) * 1000
    context.close()
    return took


def search(context: BrowserContext, url: str, number: int) -> list[float]:
    """Milliseconds of each of ``number`` searches."""
    words, took = random.Random(7), []
    for _ in range(number):
        asked = words.choice(["seldom", "everywhere", *words.sample(_WORDS, 8)])
        asked = " ".join([asked, *words.sample(_WORDS, words.randint(0, 2))])
        began = time.perf_counter()
        answer = context.request.get(f"{url}/search/", params={"q": asked})
        took.append((time.perf_counter() - began) * 1000)
        if not answer.ok:
            raise RuntimeError(f"{answer.status} {answer.url}")
    return took


def measure(url: str, messages: int, rounds: int, searches: int) -> str:
    words = random.Random(1)
    with chromium() as browser:
        state = register(browser, url)
        context = browser.new_context(storage_state=state)
        bring_in(context, url, [chat(f"{length} messages", length, words) for length in _LENGTHS])
        addresses = {length: address(context, url, f"{length} messages") for length in _LENGTHS}
        times: dict[int, list[float]] = {length: [] for length in _LENGTHS}
        for _ in range(rounds):
            for length, place in addresses.items():
                times[length].append(open_cold(browser, state, place))
        short = statistics.median(times[_LENGTHS[0]])
        opened = report.table(
            ["messages", "p50 (ms)", "worst (ms)", "p50 / 50 messages"],
            [
                [f"{n:,}", f"{statistics.median(t):.0f}", f"{max(t):.0f}", f"{statistics.median(t) / short:.2f}"]
                for n, t in times.items()
            ],
        )
        for start in range(0, messages, 20 * _PER_CHAT):
            batch = [
                chat(f"Chat {start + n}", _PER_CHAT, words) for n in range(min(20, (messages - start) // _PER_CHAT))
            ]
            bring_in(context, url, batch)
        took = search(context, url, searches)
    found = report.table(
        ["messages", "searches", "p50 (ms)", "p95 (ms)", "worst (ms)"],
        [
            [
                f"{messages + sum(_LENGTHS):,}",
                str(searches),
                f"{statistics.median(took):.0f}",
                f"{sorted(took)[int(0.95 * len(took))]:.0f}",
                f"{max(took):.0f}",
            ]
        ],
    )
    head = f"Opening a chat with an empty cache, {rounds} times each:"
    return f"{head}\n\n{opened}\n\nSearching, the whole page over HTTP:\n\n{found}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000, help="beside those of the long chats")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    machine = report.machine()
    with instance() as url:
        text = f"{machine} just before.\n\n{measure(url, options.messages, options.rounds, options.searches)}"
    print(text)
    if options.write:
        report.write("long_chats", text)


if __name__ == "__main__":
    main()
