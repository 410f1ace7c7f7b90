"""Every component in every state on one page, for development."""

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render

from aiia_platform.accounts.models import ApiKey, User
from aiia_platform.chats.models import Chat, Message
from aiia_platform.gateway import ModelInfo
from aiia_platform.generations.models import Generation
from aiia_web.accounts import KeyForm

ANSWER = """A paragraph with **bold**, *slanted*, `code` and a [link](https://example.org/).

1. One
2. Two
   - nested

> A quotation.

```python
def area(radius: float) -> float:
    # Not exact.
    return 3.1416 * radius**2
```

| City | Inhabitants |
| --- | --: |
| Paris | 2,102,650 |
| Rome | 2,748,109 |
"""

State = Generation.State
OUTCOMES: list[tuple[str, dict[str, object]]] = [
    (State.QUEUED, {"status": {"phase": "queued", "position": 3, "eta_s": 12}}),
    (State.RUNNING, {"status": {"phase": "starting", "state": "downloading", "progress": 0.62, "eta_s": 240}}),
    (State.RUNNING, {"status": {"phase": "thinking", "seconds": 14}}),
    (State.RUNNING, {"status": {"phase": "writing", "tokens_per_s": 42}}),
    (State.RUNNING, {"status": {"phase": "interrupted", "reason": "The worker stopped"}}),
    (State.DONE, {"completion_tokens": 214}),
    (State.STOPPED, {}),
    (State.FAILED, {"error": "qwen3-8b did not answer within 120 s.", "advice": "Retry, or choose another model."}),
]


def _message(state: str, fields: dict[str, object], text: str) -> Message:
    message = Message(chat=Chat(title="Example"), role="assistant", text=text)
    message.generation = Generation(message=message, model="qwen3-8b", state=state, **fields)
    return message


def _model(state: str, **fields: object) -> ModelInfo:
    values: dict[str, object] = {"id": state, "title": "qwen3-8b", "task": "chat", "state": state, "reason": ""}
    values |= {"progress": None, "eta_s": None, "max_model_len": None, "exact_continuation": False} | fields
    return ModelInfo(**values)  # type: ignore[arg-type]


def show(request: HttpRequest) -> HttpResponse:
    """The style guide. It stands without a database, so that nothing in it depends on who looks."""
    if not settings.DEBUG:
        raise Http404
    invalid = KeyForm({"name": ""})
    invalid.is_valid()
    context = {
        "field": KeyForm()["name"],
        "invalid": invalid["name"],
        "question": Message(role="user", text="How large is a circle?\nAnd Paris?"),
        "answers": [
            _message(state, fields, ANSWER if state == State.DONE else "A part of it") for state, fields in OUTCOMES
        ],
        "models": [
            _model("ready"),
            _model("starting", eta_s=40),
            _model("downloading", progress=0.62, eta_s=240),
            _model("cold"),
            _model("failed", reason="Out of memory"),
        ],
        "key": ApiKey(name="laptop", prefix="sk-a1B2c"),
        "person": User(username="ada"),
    }
    return render(request, "styleguide.html", context)
