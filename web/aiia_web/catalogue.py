"""The models, as a page shows them."""

import hashlib

from django.http import HttpResponse
from django.shortcuts import render

from aiia_platform.gateway import ModelInfo, list_models_sync, was_heard
from aiia_web.access import SignedInRequest, signed_in


class Picker:
    """The chat models, and the one that is chosen."""

    def __init__(self, wanted: str = "") -> None:
        self.models = [model for model in list_models_sync() if model.task == "chat"]
        by_id = {model.id: model for model in self.models}
        ready = (model for model in self.models if model.is_ready)
        self.chosen: ModelInfo | None = by_id.get(wanted) or next(ready, None) or next(iter(self.models), None)

    @property
    def digest(self) -> str:
        """Changes when a model comes or goes, so that a page knows when its list is out of date."""
        names = "\n".join(f"{model.id} {model.title}" for model in self.models)
        return hashlib.sha256(names.encode()).hexdigest()[:12]

    @property
    def has_none(self) -> bool:
        """Whether it is certain that there is no model, rather than not yet known."""
        return not self.models and was_heard()

    @property
    def ask_again_s(self) -> int:
        """Seconds after which a page asks for the state again; 0 when there is nothing to wait for."""
        match self.chosen.state if self.chosen else "none" if self.has_none else "":
            case "ready":
                return 0
            case "cold" | "failed" | "none":
                return 10
        return 2


@signed_in
def state(request: SignedInRequest) -> HttpResponse:
    """The state of the chosen model, and the list of models when the page has another one."""
    picker = Picker(request.GET.get("model", ""))
    outdated = request.GET.get("have") != picker.digest
    return render(request, "components/model_state.html", {"picker": picker, "outdated": outdated, "fragment": True})
