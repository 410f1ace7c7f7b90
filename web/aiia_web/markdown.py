"""Markdown to safe HTML, block by block.

A block is one top-level element: a paragraph, a list, a code block. While a text grows at its end, finished blocks
never change, so that a page only ever replaces its last ones. Two things make this true: the syntax has no link
reference definitions (they would change blocks from afar), and a block counts as finished only when the *complete*
lines after it start another one (an incomplete line may still turn out to belong to it).
"""

import html
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from aiia_web import formulas

#: Longer code is shown plain: colouring it would cost more than a reader gains.
MAX_HIGHLIGHTED = 100_000
#: The same while it grows, since it is rendered for every picture of it.
MAX_HIGHLIGHTED_UNFINISHED = 4_000


@lru_cache(maxsize=64)
def _lexer(language: str) -> Lexer | None:
    try:
        return get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None


_formatter: HtmlFormatter[str] = HtmlFormatter(nowrap=True)


def _code(code: str, language: str, *, unfinished: bool = False) -> str:
    longest = MAX_HIGHLIGHTED_UNFINISHED if unfinished else MAX_HIGHLIGHTED
    lexer = _lexer(language) if language and len(code) <= longest else None
    body = highlight(code, lexer, _formatter) if lexer else html.escape(code)
    label = html.escape(language or "text")
    kind = "code diagram-source" if language == "mermaid" else "code"
    return (
        f'<div class="{kind}"><div class="code-head"><span>{label}</span>'
        '<button type="button" class="code-copy">Copy</button></div>'
        f'<pre tabindex="0"><code>{body}</code></pre></div>\n'
    )


class _Renderer(RendererHTML):
    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        info = tokens[idx].info.split()
        language = info[0].lower()[:32] if info else ""
        return _code(tokens[idx].content, language, unfinished=env["unfinished"])

    def code_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return _code(tokens[idx].content, "")

    def formula(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        source = tokens[idx].content
        shown = "math math-display" if source.startswith(("$$", "\\[")) else "math"
        return f'<span class="{shown}">{html.escape(source)}</span>'

    def formula_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return f'<div class="math math-display">{html.escape(tokens[idx].content)}</div>\n'

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        # A picture on another host would tell that host who reads the answer, so it becomes a link.
        token = tokens[idx]
        source = html.escape(str(token.attrGet("src") or ""))
        label = html.escape(token.content) or source
        return f'<a href="{source}">{label}</a>'

    def table_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return '<div class="table" tabindex="0"><table>\n'

    def table_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return "</table></div>\n"

    def _cell(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        # The content security policy has no inline style, so alignment is a class.
        token = tokens[idx]
        align = str(token.attrs.pop("style", "")).removeprefix("text-align:")
        if align:
            token.attrSet("class", f"align-{align}")
        return self.renderToken(tokens, idx, options, env)

    th_open = td_open = _cell


def _parser(**options: Any) -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, **options}, renderer_cls=_Renderer)
    parser.use(formulas.plug_in)
    return parser.enable(["table", "strikethrough"]).disable(["reference", "html_block", "html_inline"])


_markdown = _parser()
# Finds where blocks start, and leaves what is in them alone.
_outline = _parser()
_outline.core.ruler.enableOnly(["normalize", "block"])

_TAGS = {
    *("p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "ul", "ol", "li", "strong", "em", "s", "a"),
    *("code", "pre", "span", "div", "button", "table", "thead", "tbody", "tr", "th", "td"),
}
_clean: Callable[[str], str] = nh3.Cleaner(
    tags=_TAGS,
    attributes={
        "a": {"href", "title"},
        "ol": {"start"},
        "span": {"class"},
        "div": {"class", "tabindex"},
        "pre": {"tabindex"},
        "button": {"class", "type"},
        "th": {"class"},
        "td": {"class"},
    },
    set_tag_attribute_values={"a": {"target": "_blank"}},
    link_rel="nofollow noopener noreferrer",
    url_schemes={"http", "https", "mailto"},
).clean


def _normal(text: str) -> str:
    """`text` with the parser's line ends. A prefix of a text stays a prefix."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _top_level(tokens: list[Token]) -> Iterator[int]:
    return (i for i, token in enumerate(tokens) if token.level == 0 and token.nesting >= 0)


def _render(text: str, *, unfinished: bool = False) -> list[str]:
    env: dict[str, Any] = {"unfinished": unfinished}
    tokens = _markdown.parse(text, env)
    bounds = [*_top_level(tokens), len(tokens)]
    return [_clean(_markdown.renderer.render(tokens[a:b], _markdown.options, env)) for a, b in pairwise(bounds)]


def _start_of_last_block(text: str) -> int:
    """Offset in `text` where its last block starts; 0 when there is only one."""
    tokens = _outline.parse(text)
    starts = list(_top_level(tokens))
    place = tokens[starts[-1]].map if len(starts) > 1 else None
    if not place:
        return 0
    return sum(len(line) + 1 for line in text.split("\n", place[0])[: place[0]])


@lru_cache(maxsize=512)
def blocks(text: str) -> tuple[str, ...]:
    """The HTML of each block of a whole text."""
    return tuple(_render(_normal(text)))


class Growing:
    """Renders a text again and again while it grows, parsing only from its last unfinished block on.

    Long code is coloured once, when its block is finished or the text is said to be `final`.
    """

    def __init__(self) -> None:
        self._finished: list[str] = []
        self._finished_text = ""
        # What showed that they are finished: the lines after them too.
        self._shown = ""
        self._lines_end = 0

    def unfinished(self, text: str) -> int:
        """How many characters `render` would parse."""
        return len(text) - len(self._finished_text)

    def render(self, text: str, *, final: bool = False) -> list[str]:
        """The HTML of each block of `text`. A text that does not continue the last one is rendered anew."""
        text = _normal(text)
        if not text.startswith(self._shown):
            self._finished, self._finished_text, self._shown, self._lines_end = [], "", "", 0
        start, lines_end = len(self._finished_text), text.rfind("\n") + 1
        # Only a new complete line can finish a block. A shorter text than last time is looked at again as well.
        if lines_end != self._lines_end:
            self._lines_end = lines_end
            if length := _start_of_last_block(text[start:lines_end]):
                self._finished += _render(text[start : start + length])
                start += length
                self._finished_text, self._shown = text[:start], text[:lines_end]
        return [*self._finished, *_render(text[start:], unfinished=not final)]
