"""A conversation as a plain PDF document."""

import logging
from collections.abc import Iterable
from pathlib import Path

from fpdf import FPDF

_FONTS = Path(__file__).parent / "static" / "dist"
# It warns of each character that the font lacks, with the text around it.
logging.getLogger("fpdf").setLevel(logging.ERROR)
logging.getLogger("fontTools").setLevel(logging.ERROR)


class _Document(FPDF):
    def footer(self) -> None:
        self.set_y(-14)
        self.set_font("text", size=8)
        self.cell(0, 8, f"{self.page_no()}", align="C")


def document(title: str, turns: Iterable[tuple[str, str]]) -> bytes:
    """The bytes of an A4 document: the title, then each of `turns`, who and what was said, as plain text.

    The font has Latin, Greek, Cyrillic, Arabic, Hebrew and symbols; for other scripts there are empty boxes.
    """
    made = _Document(format="A4")
    made.set_title(title)
    made.set_margins(20, 18)
    made.set_auto_page_break(True, 18)
    for style, file in (("", "DejaVuSans.ttf"), ("B", "DejaVuSans-Bold.ttf")):
        made.add_font("text", style, _FONTS / file)
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
