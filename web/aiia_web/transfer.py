"""Chats as files: exports in four formats, and the page that takes other programs' exports in."""

import json
import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.utils.http import content_disposition_header
from django.views.decorators.http import require_http_methods, require_safe

from aiia_platform.chats.models import Chat
from aiia_platform.chats.transfer import exporting, importing
from aiia_platform.chats.transfer.parsed import UnreadableExport
from aiia_web.access import SignedInRequest, signed_in


class ImportForm(forms.Form):
    file = forms.FileField(
        label="Exported chats",
        help_text="The JSON that aiia, Open WebUI or LibreChat exports, or the archive that ChatGPT sends",
        widget=forms.FileInput(attrs={"accept": ".json,.zip,application/json,application/zip"}),
        error_messages={"required": "Choose a file first.", "empty": "The file is empty."},
    )

    def clean_file(self) -> Any:
        file = self.cleaned_data["file"]
        if file.size > importing.MAX_EXPORT_SIZE:
            raise forms.ValidationError(f"A file of at most {importing.MAX_EXPORT_SIZE // 2**20} MiB.")
        try:
            return importing.read(file.read())
        except UnreadableExport as error:
            raise forms.ValidationError(str(error)) from error


@require_safe
@signed_in
def export(request: SignedInRequest, chat_id: UUID, kind: str) -> HttpResponse:
    """One chat: the branch that is shown, or as JSON all of them."""
    chat = get_object_or_404(Chat.objects.of(request.user), id=chat_id)
    if kind not in _KINDS:
        raise Http404
    content_type, content = _KINDS[kind]
    return _download(content(chat), content_type, f"{_file_name(chat.title)}.{kind}")


@require_safe
@signed_in
def export_all(request: SignedInRequest) -> HttpResponse:
    """All chats as one JSON file."""
    chats = Chat.objects.of(request.user).filter(is_temporary=False)
    return _download(_json(exporting.as_json(chats)), "application/json", "aiia-chats.json")


@require_http_methods(["GET", "HEAD", "POST"])
@signed_in
def take_in(request: SignedInRequest) -> HttpResponse:
    """Ask for a file, then make chats of it."""
    form = ImportForm(request.POST, request.FILES) if request.method == "POST" else ImportForm()
    if form.is_valid():
        try:
            new, known = importing.store(request.user, form.cleaned_data["file"])
        except UnreadableExport as error:
            form.add_error("file", str(error))
        else:
            messages.success(request, _told(new, known))
            return redirect("chats")
    return render(request, "chats/import.html", {"form": form}, status=422 if form.errors else 200)


def _told(new: int, known: int) -> str:
    told = f"{new} chat{'' if new == 1 else 's'} imported"
    return f"{told}, {known} {'was' if known == 1 else 'were'} here already" if known else told


def _json(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False, indent=1).encode()


def _html(chat: Chat) -> bytes:
    shown = exporting.shown(chat)
    return render_to_string("chats/export.html", {"chat": chat, "shown": shown}).encode()


def _pdf(chat: Chat) -> bytes:
    # Its library and the fonts' are large, and few ask for it.
    from aiia_web import pdf

    return pdf.document(chat.title, ((exporting.author_of(message), message.text) for message in exporting.shown(chat)))


_KINDS: dict[str, tuple[str, Callable[[Chat], bytes]]] = {
    "md": ("text/markdown; charset=utf-8", lambda chat: "".join(exporting.as_markdown(chat)).encode()),
    "json": ("application/json", lambda chat: _json(exporting.as_json([chat]))),
    "html": ("text/html; charset=utf-8", _html),
    "pdf": ("application/pdf", _pdf),
}


def _file_name(title: str) -> str:
    return re.sub(r"[^\w .()-]+", " ", title).strip(" .")[:60] or "chat"


def _download(content: bytes, content_type: str, name: str) -> HttpResponse:
    response = HttpResponse(content, content_type=content_type)
    response["Content-Disposition"] = content_disposition_header(True, name)
    response["Cache-Control"] = "no-store"
    return response
