"""Formulas, diagrams and times of messages, in a real browser under the site's own policy."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Request, expect

from tests.e2e.conftest import PHONE, ask, register, until, wait_for_end
from tests.e2e.gateway import Script
from tests.e2e.site import Site
from tests.web.test_markdown import XSS

pytestmark = pytest.mark.e2e
Open = Callable[..., Page]

#: Milliseconds in which even a busy machine has loaded what draws.
SLOW = 90_000

RICH = r"""Euler found $e^{i\pi} + 1 = 0$, for $5 and \(\sqrt{2}\):

\[
\int_0^\infty e^{-x^2} \, dx
= \frac{\sqrt{\pi}}{2}, \quad \vec{AB} \ne \left( \begin{matrix} 1 \\ 2 \end{matrix} \right)
\]

$$\ce{2H2 + O2 -> 2H2O}, \fcolorbox{red}{white}{x}$$

This is none: $$\nonsense{$$

```mermaid
flowchart LR
  A[Question] --> B{Known?}
  B -- yes --> C[Answer]
  B -- no --> D[Ask again]
```

```mermaid
this is no diagram
```

`$x$` stays code.
"""


def test_formulas_are_typeset_and_diagrams_drawn_when_the_answer_is_finished(site: Site, open_page: Open) -> None:
    site.gateway.script = Script(text=RICH, tokens_per_second=200)
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    register(page)
    assert not any("math" in url or "diagrams" in url for url in asked)
    ask(page)
    wait_for_end(page)
    expect(page.locator(".math .katex")).to_have_count(4, timeout=SLOW)
    expect(page.locator(".math-unread")).to_have_text(r"$$\nonsense{$$")
    until(page, "document.fonts.check('16px KaTeX_Main')")
    expect(page.locator(".diagram img")).to_have_count(1, timeout=SLOW)
    until(page, "document.querySelector('.diagram img').naturalWidth > 200")
    expect(page.locator("[data-blocks] > div > .code")).to_contain_text("this is no diagram")
    expect(page.locator("code:text-is('$x$')")).to_be_visible()
    # The source is one click away, and is what is copied.
    page.click("text=Source")
    expect(page.locator(".diagram-details code")).to_contain_text("A[Question] --> B{Known?}")
    page.click("[data-copy-answer]")
    until(page, "navigator.clipboard.readText().then(t => t.includes('$e^{i\\\\pi} + 1 = 0$, for $5 and'))")
    asked.clear()
    page.reload()
    expect(page.locator(".math .katex")).to_have_count(4, timeout=SLOW)
    expect(page.locator(".diagram img")).to_have_count(1, timeout=SLOW)


def test_a_diagram_follows_the_theme(site: Site, open_page: Open) -> None:
    site.gateway.script = Script(text=RICH)
    page = open_page(color_scheme="light", **PHONE)
    register(page)
    ask(page)
    image = page.locator(".diagram img")
    expect(image).to_have_count(1, timeout=SLOW)
    light = image.get_attribute("src")
    page.emulate_media(color_scheme="dark")
    expect(image).not_to_have_attribute("src", light or "", timeout=SLOW)
    # What is wider than a phone scrolls in itself.
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_without_scripts_the_source_is_read(site: Site, open_page: Open) -> None:
    site.gateway.script = Script(text=RICH)
    page = open_page()
    register(page)
    ask(page)
    wait_for_end(page)
    plain = open_page(java_script_enabled=False, storage_state=page.context.storage_state())
    plain.goto(page.url)
    expect(plain.locator(".math").first).to_have_text(r"$e^{i\pi} + 1 = 0$")
    expect(plain.locator(".diagram-source").first).to_contain_text("flowchart LR")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_hostile_formulas_and_diagrams_do_nothing(site: Site, open_page: Open, theme: str) -> None:
    attacks = [attack.replace("`", "'").replace("\n", " ").replace("$", "") for attack in XSS]
    formulas = "\n\n".join(f"$$x \\text{{{attack}}}$$\n\n\\({attack}\\)" for attack in attacks)
    quoted = [attack.replace('"', "#quot;") for attack in attacks]
    nodes = "\n".join(f'  N{i}["{attack}"] --> M{i}["`{attack}`"]' for i, attack in enumerate(quoted))
    labels = f'flowchart TD\n{nodes}\n  click N0 "javascript:alert(1)"\n  click N1 call alert(1)\n'
    styled = "flowchart TD\n  A-->B\n  style A fill:url(//evil.example/x),background:url(//evil.example/y)\n"
    configured = (
        '%%{init: {"securityLevel": "loose", "htmlLabels": true, "themeCSS": "*{background:url(//evil.example/z)}"}}'
        "%%\n"
        'flowchart TD\n  A["<img src=//evil.example/i onerror=alert(1)>"]\n'
    )
    diagrams = "".join(f"\n\n```mermaid\n{source}```" for source in (labels, styled, configured))
    site.gateway.script = Script(text=f"{formulas}{diagrams}\n\n```mermaid\nflowchart LR\n  Last --> One\n```\n")
    page = open_page(color_scheme=theme)
    abroad: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith((site.url, "data:")):
            abroad.append(request.url)

    page.on("request", note)
    page.on("dialog", lambda dialog: (abroad.append(dialog.message), dialog.dismiss()))
    register(page)
    ask(page)
    wait_for_end(page)
    page.locator("[data-blocks] > div:last-child .diagram img").wait_for(timeout=SLOW)
    expect(page.locator(".math .katex").first).to_be_attached()
    assert abroad == []
    # Nothing but what the typesetter and our own pictures are made of.
    odd = "script, iframe, object, embed, form, style, base, [onerror], [onload], [onclick], a[href^='javascript']"
    assert page.locator("[data-blocks]").locator(odd).count() == 0
    sources = "[...document.querySelectorAll('[data-blocks] img')].every(i => i.src.startsWith('data:image/svg+xml'))"
    assert page.evaluate(sources)
    # The frame that drew them has no rights, even to itself.
    frame = next(frame for frame in page.frames if frame.url.endswith("/diagrams/"))
    assert frame.evaluate("origin") == "null"


def test_a_page_without_formulas_loads_nothing_for_them(site: Site, open_page: Open) -> None:
    page = open_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    register(page)
    ask(page)
    wait_for_end(page)
    assert not any("/math" in url or "diagrams" in url for url in asked)


def test_each_message_has_its_time_in_the_readers_zone(site: Site, open_page: Open) -> None:
    page = open_page(timezone_id="Asia/Kolkata", locale="en-GB")
    register(page)
    ask(page)
    wait_for_end(page)
    times = page.locator("#messages time")
    expect(times).to_have_count(2)
    at = "new Date(document.querySelector('#messages time').dateTime)"
    for moment in (times.first, times.last):
        expect(moment).to_have_text(re.compile(r"^\d\d:\d\d$"))
    expect(times.first).to_have_text(page.evaluate(f"{at}.toLocaleTimeString('en-GB', {{timeStyle: 'short'}})"))
    plain = open_page(java_script_enabled=False, storage_state=page.context.storage_state())
    plain.goto(page.url)
    expect(plain.locator("#messages time").last).to_have_text(re.compile(r"^\d+ \w+ \d{4}, \d\d:\d\d UTC$"))
