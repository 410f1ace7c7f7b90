"""Markdown, whole and growing."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aiia_web.markdown import Growing, blocks

pytestmark = pytest.mark.unit

#: What Markdown is made of, so that random texts meet its corners.
PIECES = [
    *(
        "a",
        "b c",
        "*",
        "**",
        "_",
        "`",
        "```",
        "```py\n",
        "~~~",
        "#",
        "# ",
        "- ",
        "* ",
        "+ ",
        "1. ",
        "2) ",
        "> ",
        "|",
        "a | b",
        "--- | ---",
    ),
    *(
        "---",
        "===",
        "-",
        "=",
        "\n",
        "\n\n",
        "\r\n",
        "\r",
        "    ",
        "  ",
        " ",
        "\t",
        "[a]",
        "(b)",
        "[a]: /u\n",
        "![",
        "](x)",
        "<b>",
        "<!--",
        "-->",
    ),
    *("&amp;", "\\", "~~", "http://a.b", "é", "😀", "\0"),
    *("$", "$$", "$$\n", "$$x$$", "\\[", "\\]", "\\(", "\\)", "\n= b\n", "\n+ c\n"),
]
texts = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)


@settings(max_examples=300, deadline=None)
@given(texts, st.data())
@example("para\n```x`y\n\nend", None)
@example("text\na | b\n--- | -x\n\nend", None)
@example("$$\na\n+ b\n=\n$$ and\n- c\n\n\\[\nd\n\\]\ne", None)
def test_growing_text_equals_the_whole_at_every_step(text: str, data: st.DataObject | None) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12)) if data else range(len(text))
    growing = Growing()
    for cut in [*sorted(cuts), len(text)]:
        assert growing.render(text[:cut]) == list(blocks(text[:cut]))


@settings(max_examples=100, deadline=None)
@given(texts)
def test_finished_blocks_never_change(text: str) -> None:
    growing = Growing()
    finished: list[str] = []
    for cut in range(len(text) + 1):
        growing.render(text[:cut])
        assert growing._finished[: len(finished)] == finished
        finished = list(growing._finished)


@given(texts, texts)
@example("aa[a]: /u\n```[a]: /u\n", "aa[a]: /u\na")
def test_a_text_that_was_cut_is_rendered_anew(first: str, second: str) -> None:
    growing = Growing()
    growing.render(first)
    assert growing.render(second) == list(blocks(second))


def test_a_long_answer_is_split_into_its_blocks() -> None:
    html = blocks(
        "# Title\n\nText\nmore\n\n- a\n\n- b\n\n```python\nx = 1\n\ny = 2\n```\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n"
    )
    assert [re.sub(r"\W.*", "", block[1:], flags=re.S) for block in html] == ["h1", "p", "ul", "div", "div"]
    assert '<span class="n">x</span>' in html[3]
    assert '<td class="align-right">2</td>' in html[4]


def test_unknown_languages_and_open_fences_are_shown_as_they_are() -> None:
    assert "<code>a &lt; b" in blocks("```nonsense\na < b")[0]
    assert "<code>x = " in blocks("```\nx = ")[0]


def test_links_leave_without_a_trace() -> None:
    (html,) = blocks("[a](https://example.org/)")
    assert 'rel="nofollow noopener noreferrer"' in html
    assert 'target="_blank"' in html


def test_pictures_of_other_hosts_become_links() -> None:
    (html,) = blocks("![a cat](https://example.org/cat.png)")
    assert "<img" not in html
    assert ">a cat</a>" in html


def test_formulas_keep_their_source() -> None:
    (inline,) = blocks("Let $x^2$ and \\(a_1*b*c_2\\) be")
    assert re.findall(r'<span class="math">(.*?)</span>', inline) == ["$x^2$", "\\(a_1*b*c_2\\)"]
    # Lines that would otherwise begin a list or a heading.
    assert blocks("\\[\na\n=\n+ b\n\\]\nend")[0] == '<div class="math math-display">\\[\na\n=\n+ b\n\\]</div>\n'
    assert '<div class="math math-display">$$x$$</div>' in blocks("- a\n\n  $$x$$\n- b")[0]
    assert [block[:5] for block in blocks("$$\nnever closed\n\nend")] == ["<p>$$", "<p>en"]


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and $10",
        "$5-$10, US$5 or 6$",
        "$5 and 6$",
        "$20M to $30M",
        "echo $HOME/$USER",
        "\\$5\\$",
        "`$x$`",
        "`` \\(x\\) ``",
        "```\n$$x$$\n```",
        "    $$x$$",
    ],
)
def test_prices_variables_and_code_are_no_formulas(text: str) -> None:
    assert "math" not in "".join(blocks(text))


XSS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    '<a href="javascript:alert(1)">x</a>',
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java&#115;cript:alert(1))",
    "[x](vbscript:msgbox(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "![x](javascript:alert(1))",
    "![x](data:image/svg+xml;base64,PHN2Zz4=)",
    '![x" onerror="alert(1)](https://a.b/c)',
    '[x](https://a.b "t\\" onmouseover=\\"alert(1)")',
    "<javascript:alert(1)>",
    "<iframe src=//evil></iframe>",
    "<style>*{display:none}</style>",
    "<div style='position:fixed'>x</div>",
    "<form action=//evil><input name=p></form>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    '```"><script>alert(1)</script>\nx\n```',
    "```py' onclick='alert(1)\nx\n```",
    "`<script>alert(1)</script>`",
    "    <script>alert(1)</script>",
    "<!--<img src=x onerror=alert(1)>-->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "| <script>alert(1)</script> |\n|---|\n| <img src=x onerror=alert(1)> |",
    "- <script>\n  alert(1)\n- </script>",
    "# <svg/onload=alert(1)>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<meta http-equiv=refresh content=0;url=//evil>",
    "<base href=//evil>",
    "[x]: javascript:alert(1)\n\n[x]",
    "$$<script>alert(1)</script>$$",
    "\\[\n<img src=x onerror=alert(1)>\n\\]",
    "a \\(<svg onload=alert(1)>\\) b $<script>alert(1)</script>$",
    "$\\href{javascript:alert(1)}{x}$",
    "$\\htmlStyle{position:fixed}{\\includegraphics{//evil}}$",
    '```mermaid\ngraph LR\nA["<img src=x onerror=alert(1)>"]\nclick A "javascript:alert(1)"\n```',
]
PLAIN = ("p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "ul", "li", "strong", "em", "s", "code")
TABLES = ("table", "thead", "tbody", "tr")
ALLOWED: dict[str, set[str]] = {
    **{tag: set() for tag in (*PLAIN, *TABLES)},
    "a": {"href", "title", "rel", "target"},
    "ol": {"start"},
    "span": {"class"},
    "div": {"class", "tabindex"},
    "pre": {"tabindex"},
    "button": {"type", "class"},
    "th": {"class"},
    "td": {"class"},
}


class Inspector(HTMLParser):
    """Fails on every tag, attribute and address that an answer must not have."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED
        assert {name for name, _ in attrs} <= ALLOWED[tag]
        assert (dict(attrs).get("href") or "https:").startswith(("https:", "http:", "mailto:"))

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


@pytest.mark.parametrize("attack", XSS)
def test_hostile_text_stays_text_at_every_step(attack: str) -> None:
    growing = Growing()
    for cut in range(len(attack) + 1):
        Inspector().feed("".join(growing.render(attack[:cut])))


def test_long_code_is_coloured_when_it_is_finished_and_not_for_every_picture_before() -> None:
    code = "```py\n" + "x = 1\n" * 1000
    whole = blocks(code + "```\n\nEnd\n")
    growing = Growing()
    for text in (code, code + "```\n", code + "```\n\nEnd"):
        assert "<span class" not in growing.render(text)[0]
    assert growing.render(code + "```\n\nEnd\n") == list(whole)
    assert '<span class="n">x</span>' in whole[0]
    assert Growing().render(code, final=True) == list(blocks(code))


def test_short_code_is_coloured_while_it_grows() -> None:
    assert '<span class="n">x</span>' in Growing().render("```py\nx = 1\n")[0]
