"""The page of models: what they do, for everybody; what can be done with them, for administrators."""

import hashlib
from dataclasses import dataclass
from typing import Any

from asgiref.sync import async_to_sync
from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from aiia_platform.catalogue import manager
from aiia_platform.catalogue.manager import ManagedModel
from aiia_platform.problems import Problem
from aiia_web.access import SignedInRequest, administrators, signed_in
from aiia_web.fragments import is_fragment, toast

#: States that end by themselves, so that the page asks again soon.
_PASSING = {"registered", "downloading", "starting", "draining"}
_SOON_S, _LATER_S = 2, 10
_DONE = {"load": "Starting {}", "unload": "Stopping {}", "remove": "Removed {}", "add": "Added {}", "scale": "Saved"}


class ScaleForm(forms.Form):
    min_replicas = forms.IntegerField(label="At least", min_value=0, max_value=1000)
    max_replicas = forms.IntegerField(label="At most", min_value=1, max_value=1000)


@dataclass(frozen=True)
class Row:
    """A model as the page shows it. `number` is its place in the list; `scale` is None when it cannot be scaled."""

    number: int
    model: ManagedModel
    is_added: bool
    scale: ScaleForm | None

    @property
    def action(self) -> str:
        """`load` or `unload`, whichever makes sense now; '' when neither does."""
        if self.scale is None or self.model.state == "draining":
            return ""
        return "load" if self.model.state in {"cold", "failed", "registered"} else "unload"


class Board:
    """All models, and for administrators the catalogue, asked for now. Raises `Problem`.

    `filled` is a form that somebody has filled in for one of them.
    """

    def __init__(self, *, for_staff: bool, filled: tuple[str, ScaleForm] | None = None) -> None:
        models = async_to_sync(manager.models)()
        self.catalogue: dict[str, Any] | None = None
        self.catalogue_problem = ""
        if for_staff:
            try:
                self.catalogue = async_to_sync(manager.catalogue)()
            except Problem as problem:
                self.catalogue_problem = problem.detail
        added = {entry["id"] for entry in self._entries if entry["added"]}
        self.rows = [
            Row(number, model, model.id in added, _scale_form(number, model, filled))
            for number, model in enumerate(models, 1)
        ]

    @property
    def fitting(self) -> list[dict[str, Any]]:
        return [entry for entry in self._entries if entry["fits"]]

    @property
    def too_large(self) -> list[dict[str, Any]]:
        return [entry for entry in self._entries if not entry["fits"]]

    @property
    def _entries(self) -> list[dict[str, Any]]:
        """What people ask for most comes first."""
        return sorted(self.catalogue["models"] if self.catalogue else [], key=lambda entry: entry["task"] != "chat")

    @property
    def digest(self) -> str:
        """Changes when a model comes or goes, or something else can be done with one; then the list is out of date."""
        marks = "\n".join(
            f"{row.model.id} {row.model.title} {row.action} {row.model.min_replicas} {row.model.max_replicas}"
            for row in self.rows
        )
        return hashlib.sha256(marks.encode()).hexdigest()[:12]

    @property
    def ask_again_s(self) -> int:
        """Seconds after which a page asks for the states again."""
        return _SOON_S if any(row.model.state in _PASSING for row in self.rows) else _LATER_S


def _scale_form(number: int, model: ManagedModel, filled: tuple[str, ScaleForm] | None) -> ScaleForm | None:
    if model.engine in {"openai", "none"} or model.base:
        return None
    if filled and filled[0] == model.id:
        return filled[1]
    bounds = {"min_replicas": model.min_replicas, "max_replicas": model.max_replicas}
    return ScaleForm(initial=bounds, auto_id=f"scale-{number}-%s")


@signed_in
@require_safe
def index(request: SignedInRequest) -> HttpResponse:
    """The page; for a page that asks again, the states alone while nothing else has changed."""
    if not is_fragment(request) or not (have := request.GET.get("have")):
        return _answer(request)
    try:
        board = Board(for_staff=False)
    except Problem as problem:
        return _answer(request, problem=problem)
    if board.digest != have:
        return _answer(request)
    return render(request, "models/states.html", {"board": board})


@administrators
@require_POST
def act(request: SignedInRequest, model_id: str, verb: str) -> HttpResponse:
    """Load or unload a model."""
    return _change(request, verb, model_id, "POST", manager.model_path(model_id, verb))


@administrators
@require_POST
def add(request: SignedInRequest, name: str) -> HttpResponse:
    """Add a model from the catalogue."""
    return _change(request, "add", name, "POST", manager.catalogue_path(name))


@administrators
def remove(request: SignedInRequest, model_id: str) -> HttpResponse:
    """Ask, then remove."""
    if request.method == "POST":
        return _change(request, "remove", model_id, "DELETE", manager.model_path(model_id))
    template = "models/remove_dialog.html" if is_fragment(request) else "models/remove.html"
    return render(request, template, {"model_id": model_id})


@administrators
@require_POST
def scale(request: SignedInRequest, model_id: str) -> HttpResponse:
    """Set the least and the most replicas."""
    form = ScaleForm(request.POST)
    if form.is_valid():
        try:
            async_to_sync(manager.scale)(model_id, **form.cleaned_data)
            return _done(request, "scale", model_id)
        except Problem as problem:
            if problem.status != 422:
                return _refuse(request, problem)
            for error in problem.more.get("errors") or [{"field": None, "message": problem.detail}]:
                form.add_error(error["field"] if error["field"] in form.fields else None, error["message"])
    return _answer(request, status=422, filled=(model_id, form))


def _change(request: SignedInRequest, verb: str, name: str, method: str, path: str) -> HttpResponse:
    try:
        async_to_sync(manager.change)(method, path)
    except Problem as problem:
        return _refuse(request, problem)
    return _done(request, verb, name)


def _done(request: SignedInRequest, verb: str, name: str) -> HttpResponse:
    if is_fragment(request):
        return _answer(request)
    messages.success(request, _DONE[verb].format(name))
    return redirect("models")


def _refuse(request: SignedInRequest, problem: Problem) -> HttpResponse:
    if is_fragment(request):
        return toast(request, problem.status, problem.detail)
    return _answer(request, status=problem.status, error=problem.detail)


def _answer(
    request: SignedInRequest,
    *,
    status: int = 200,
    error: str = "",
    filled: tuple[str, ScaleForm] | None = None,
    problem: Problem | None = None,
) -> HttpResponse:
    """The whole page, or both lists for HTMX; the reason when there is nothing to be seen."""
    board = None
    try:
        board = None if problem else Board(for_staff=request.user.is_staff, filled=filled)
    except Problem as found:
        problem = found
    fragment = is_fragment(request)
    context = {"board": board, "problem": problem, "error": error, "ask_again_s": _LATER_S}
    template = "models/lists.html" if fragment else "models/models.html"
    response = render(request, template, context, status=problem.status if problem else status)
    if fragment:
        response["HX-Retarget"] = "#models"
        response["HX-Reswap"] = "outerHTML"
    return response
