"""Formulas in Markdown: `$$…$$`, `\\[…\\]`, `\\(…\\)` and `$…$`, kept as their source for a page that can typeset them.

A plug-in of markdown-it. The source keeps its delimiters, so that text without a script reads as it was written.
"""

import re

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

#: Characters of one formula; a bound also on how far each opening delimiter looks for its end.
MAX_FORMULA = 5_000
_PAIRS = {"\\(": "\\)", "\\[": "\\]", "$$": "$$"}
# "$5 and 6$" are prices, "$5 + x$" is a formula.
_PRICE = re.compile(r"\d[^\\^_=<>+*/{}]*\s")


def plug_in(markdown: MarkdownIt) -> None:
    """Have the parser make `formula` (inline) and `formula_block` tokens, whose `content` is the source."""
    markdown.inline.ruler.before("escape", "formula", _inline)
    markdown.block.ruler.before("fence", "formula_block", _block, {"alt": ["paragraph", "blockquote", "list"]})


def _end(source: str, start: int, limit: int) -> int:
    """Where the formula that starts at `start` ends; 0 where none does."""
    limit = min(limit, start + MAX_FORMULA)
    if closing := _PAIRS.get(source[start : start + 2]):
        found = source.find(closing, start + 2, limit)
        return found + 2 if found > start + 2 and source[start + 2 : found].strip() else 0
    return _end_of_dollars(source, start, limit) if source[start] == "$" else 0


def _end_of_dollars(source: str, start: int, limit: int) -> int:
    before = source[start - 1 : start]
    found = source.find("$", start + 1, limit)
    while found > 0 and source[found - 1] == "\\":
        found = source.find("$", found + 1, limit)
    inner, after = source[start + 1 : found], source[found + 1 : found + 2]
    if found < 0 or not inner or inner != inner.strip() or "\n" in inner or "`" in inner:
        return 0
    if before.isalnum() or after.isalnum() or after == "$" or _PRICE.match(inner):
        return 0
    return found + 1


def _inline(state: StateInline, silent: bool) -> bool:
    if state.src[state.pos] not in "\\$" or not (end := _end(state.src, state.pos, state.posMax)):
        return False
    if not silent:
        token = state.push("formula", "", 0)
        token.content = state.src[state.pos : end]
    state.pos = end
    return True


def _block(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    """A formula on lines of its own, in which nothing else is Markdown.

    Until its end is there it takes every line up to an empty one, so that no later line changes what is before it.
    """
    first = state.bMarks[start_line] + state.tShift[start_line]
    closing = _PAIRS.get(state.src[first : first + 2])
    if state.is_code_block(start_line) or closing not in ("$$", "\\]"):
        return False
    line, rest = start_line, state.src[first + 2 : state.eMarks[start_line]]
    if closing in rest and not rest.rstrip().endswith(closing):
        return False
    if silent:
        return True
    while closing not in rest and line + 1 < end_line and not state.isEmpty(line + 1):
        if state.sCount[line + 1] < state.blkIndent:
            break
        line += 1
        rest = state.src[state.bMarks[line] : state.eMarks[line]]
    content = state.getLines(start_line, line + 1, state.blkIndent, False).strip()
    state.line = line + 1
    if content.find(closing, 2) == len(content) - 2 and content[2:-2].strip() and len(content) <= MAX_FORMULA:
        token = state.push("formula_block", "", 0)
        token.content, token.map = content, [start_line, state.line]
        return True
    token = state.push("paragraph_open", "p", 1)
    token.map = [start_line, state.line]
    token = state.push("inline", "", 0)
    token.content, token.map, token.children = content, [start_line, state.line], []
    state.push("paragraph_close", "p", -1)
    return True
