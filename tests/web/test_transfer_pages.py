"""Exports as files, and the page that imports them."""

import json
import time
import uuid
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from aiia_platform.accounts.models import User
from aiia_platform.chats.models import Chat
from aiia_platform.chats.transfer import importing
from aiia_platform.config import config
from aiia_web import pdf

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("models")]
ATTACK = "<script>alert(1)</script><img src=x onerror=alert(1)>"


@pytest.fixture
def chat(user: User) -> Chat:
    rows = [
        {"id": "1", "role": "user", "text": f"Where is Rome? {ATTACK}"},
        {"id": "2", "parent": "1", "role": "assistant", "model": "qwen3-8b", "text": f"In **Italy**. Ρώμη {ATTACK}"},
    ]
    data = json.dumps({"id": "r", "title": f"Rome/Paris {ATTACK}", "messages": rows}).encode()
    importing.store(user, importing.read(data))
    return Chat.objects.of(user).get()


def upload(page: Client, content: bytes, name: str = "export.json") -> Any:
    return page.post("/chats/import/", {"file": SimpleUploadedFile(name, content)}, follow=True)


def test_markdown(page: Client, chat: Chat) -> None:
    answer = page.get(f"/chats/{chat.id}/export.md")
    assert answer["Content-Type"] == "text/markdown; charset=utf-8"
    assert answer["Content-Disposition"].startswith("attachment; ")
    assert "/" not in answer["Content-Disposition"]
    assert "## qwen3-8b\n\nIn **Italy**." in answer.content.decode()


def test_a_page_of_its_own_runs_nothing(page: Client, chat: Chat) -> None:
    html = page.get(f"/chats/{chat.id}/export.html").content.decode()
    assert "<strong>Italy</strong>" in html
    tags: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag)
            assert not [name for name, _ in attrs if name.startswith("on")]

    Tags().feed(html)
    assert "script" not in tags
    assert "img" not in tags
    assert "link" not in tags


def test_a_document(page: Client, chat: Chat) -> None:
    answer = page.get(f"/chats/{chat.id}/export.pdf")
    assert answer["Content-Type"] == "application/pdf"
    assert answer.content.startswith(b"%PDF-")


def test_a_document_of_any_length() -> None:
    began = time.monotonic()
    short = pdf.document("Short", [("You", "A line of words.\n" * 10)])
    long = pdf.document("Long", [("You", "A line of words.\n" * 10)] * 1000)
    print(f"10,000 lines in {time.monotonic() - began:.1f} s")
    assert long.count(b"/Type /Page\n") > 100 * short.count(b"/Type /Page\n")
    assert pdf.document("漢字 \x00\x07 🙂", [("🙂", "word" * 5000)]).startswith(b"%PDF-")


def test_all_of_it_comes_back(page: Client, chat: Chat, user: User) -> None:
    everything = page.get("/chats/export/").content
    assert json.loads(everything)["chats"][0]["title"] == chat.title
    assert page.get(f"/chats/{chat.id}/export.json").content
    html = upload(page, everything).content.decode()
    # Exported from here it has another name than where it came from.
    assert "1 chat imported" in html
    assert "0 chats imported, 1 was here already" in upload(page, everything).content.decode()
    assert Chat.objects.of(user).count() == 2


@pytest.mark.parametrize(("content", "words"), [(b"", "empty"), (b"nonsense", "It is not JSON"), (b"[]", "no chat")])
def test_what_is_no_export_is_said_beside_the_field(page: Client, content: bytes, words: str) -> None:
    answer = upload(page, content)
    assert answer.status_code == 422
    assert words in answer.content.decode()
    assert not Chat.objects.exists()


def test_without_a_file_it_asks_for_one(page: Client) -> None:
    assert "Exported chats" in page.get("/chats/import/").content.decode()
    answer = page.post("/chats/import/")
    assert (answer.status_code, "Choose a file first." in answer.content.decode()) == (422, True)


def test_of_others_there_is_nothing(page: Client, chat: Chat, django_user_model: type[User]) -> None:
    other = Client()
    other.force_login(django_user_model.objects.create_user("other@example.com", "secret-enough-1"))
    for kind in ("md", "json", "html", "pdf"):
        assert page.get(f"/chats/{chat.id}/export.{kind}").status_code == 200
        assert other.get(f"/chats/{chat.id}/export.{kind}").status_code == 404
    assert page.get(f"/chats/{chat.id}/export.exe").status_code == 404
    assert page.get(f"/chats/{uuid.uuid4()}/export.md").status_code == 404
    assert json.loads(other.get("/chats/export/").content)["chats"] == []


def _font(file: Path, name: str, characters: str) -> None:
    """A font with nothing but a box for each of these."""
    pen = TTGlyphPen(None)
    for x, y in ((0, 0), (0, 700), (700, 700)):
        (pen.lineTo if x or y else pen.moveTo)((x, y))
    pen.closePath()
    box, glyphs = pen.glyph(), [".notdef", *(f"u{ord(c):X}" for c in characters)]
    font = FontBuilder(1000)
    font.setupGlyphOrder(glyphs)
    font.setupCharacterMap({ord(c): f"u{ord(c):X}" for c in characters})
    font.setupGlyf(dict.fromkeys(glyphs, box))
    font.setupHorizontalMetrics(dict.fromkeys(glyphs, (800, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": name, "styleName": "Regular", "psName": name})
    font.setupOS2()
    font.setupPost()
    font.save(file)


def test_a_document_takes_other_fonts_for_what_its_own_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    han, hangul = tmp_path / "han.ttf", tmp_path / "hangul.ttf"
    _font(han, "Han", "漢字")
    _font(hangul, "Hangul", "한국어")
    monkeypatch.setattr(config(), "pdf_fonts", f"/nowhere.ttc:{han}:{hangul}")
    both = pdf.document("漢字", [("You", "한국어 and English")])
    assert b"+Han" in both
    assert b"+Hangul" in both
    assert b"+Han" not in pdf.document("Rome", [("You", "Only English")])
