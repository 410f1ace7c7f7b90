"""A conversation as a plain PDF document."""

import logging
from collections.abc import Iterable
from pathlib import Path

from fpdf import FPDF
from fpdf.fonts import TTFFont

from aiia_platform.config import config

_FONTS = Path(__file__).parent / "static" / "dist"
# It warns of each character that the font lacks, with the text around it.
logging.getLogger("fpdf").setLevel(logging.ERROR)
logging.getLogger("fontTools").setLevel(logging.ERROR)


class _Document(FPDF):
    def fall_back(self, text: str) -> None:
        """Take more fonts, which can be large, when the packaged one lacks a character of the text."""
        known = {code for font in self.fonts.values() if isinstance(font, TTFFont) for code in font.cmap}
        lacking = {ord(c) for c in _plain(text)} - known
        files = [Path(name) for name in config().pdf_fonts.split(":") if name]
        more = [file for file in files if file.is_file()] if lacking else []
        for file in more:
            self.add_font(str(file), "", file)
        # Theirs are regular alone, and stand in for bold ones as well.
        self.set_fallback_fonts([str(file) for file in more], exact_match=False)

    def footer(self) -> None:
        self.set_y(-14)
        self.set_font("text", size=8)
        self.cell(0, 8, f"{self.page_no()}", align="C")


def document(title: str, turns: Iterable[tuple[str, str]]) -> bytes:
    """The bytes of an A4 document: the title, then each of `turns`, who and what was said, as plain text.

    The packaged font has Latin, Greek, Cyrillic, Arabic, Hebrew and symbols; what else there is comes from the fonts
    that `AIIA_PDF_FONTS` names, or is an empty box.
    """
    turns = list(turns)
    made = _Document(format="A4")
    made.set_title(title)
    made.set_margins(20, 18)
    made.set_auto_page_break(True, 18)
    for style, file in (("", "DejaVuSans.ttf"), ("B", "DejaVuSans-Bold.ttf")):
        made.add_font("text", style, _FONTS / file)
    made.fall_back(f"{title}{''.join(who + said for who, said in turns)}")
    made.add_page()
    made.set_font("text", "B", 16)
    made.multi_cell(0, 8, _plain(title), new_x="LMARGIN", new_y="NEXT")
    for who, said in turns:
        made.ln(4)
        made.set_font("text", "B", 9)
        made.multi_cell(0, 6, _plain(who), new_x="LMARGIN", new_y="NEXT")
        made.set_font("text", size=10)
        for line in said.split("\n"):
            # One call per line keeps the time proportional to the length.
            made.multi_cell(0, 5.2, _plain(line) or " ", align="L", new_x="LMARGIN", new_y="NEXT")
    return bytes(made.output())


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text.replace("\t", "    "))
