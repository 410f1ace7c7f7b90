"""The description of the REST API (OpenAPI), of which docs/api/openapi.yaml is a copy that a test compares."""

import json
from functools import cache
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import extend_schema
from rest_framework.renderers import BaseRenderer  # type: ignore[import-untyped]
from rest_framework.response import Response  # type: ignore[import-untyped]
from rest_framework.views import APIView  # type: ignore[import-untyped]

from aiia_platform.problems import CONTENT_TYPE

PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "An error (RFC 9457). `errors` are the mistakes of a body or a query.",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
    "required": ["type", "title", "status", "detail"],
}
#: What every endpoint may answer besides.
REFUSALS = {
    "400": "The body or the query has mistakes",
    "401": "Log in, or send an API key",
    "403": "Not open to this user, or to this key",
    "404": "Not there, or not yours",
    "429": "Too many requests, or the day's share is used up; `Retry-After` says when",
}


def _events(example: str) -> dict[str, Any]:
    """The responses of a stream of events."""
    content = {"text/event-stream": {"schema": {"type": "string"}, "example": example}}
    return {"200": {"description": "Events", "content": content}}


def _resumes(kind: str, what: str) -> list[dict[str, Any]]:
    """The parameters with which a stream goes on; `what` is of this type."""
    schema = {"type": kind}
    return [
        {"name": "after", "in": "query", "schema": schema, "description": f"Go on after this {what}"},
        {"name": "Last-Event-ID", "in": "header", "schema": schema, "description": "The same"},
    ]


#: Endpoints that are streams of events, which are not the framework's.
STREAMS: dict[str, Any] = {
    "/api/models/events/": {
        "get": {
            "operationId": "models_events",
            "summary": "Changes of models, as they happen",
            "description": (
                "Server-sent events of type `model`, with `n` as their id: "
                '`{"n", "at", "model", "state", "previous", "reason"}`. `state` is null for a model that is gone. '
                "With `Accept: application/json` what there is comes at once, and ends."
            ),
            "tags": ["models"],
            "parameters": _resumes("integer", "`n`"),
            "responses": _events('id: 7\nevent: model\ndata: {"n": 7, "model": "qwen3-8b", "state": "ready"}\n\n'),
        }
    },
    "/api/chats/{chat_id}/messages/{message_id}/events/": {
        "get": {
            "operationId": "chats_messages_events",
            "summary": "An answer, as it is written",
            "description": (
                'Server-sent events. `text` and `reasoning`, each `{"at", "text"}`: from character `at` (Unicode) on, '
                "the answer reads so; usually it grows at its end. `status`: the phase, "
                '`{"phase": "queued", "position", "eta_s"}`, then `starting` (the model is being loaded, `progress`, '
                "`eta_s`), `reading`, `thinking`, `writing` (`tokens_per_s`). `end`: "
                '`{"state": "done" | "stopped" | "failed", "error", "advice", "finish_reason", "duration_s", '
                '"usage": {"prompt_tokens", "completion_tokens", "cost"}}`; nothing comes after it. A comment at least '
                "every 10 seconds shows that the line is alive. The id of an event says what its reader has, for "
                "coming back without loss."
            ),
            "tags": ["chats"],
            "parameters": [
                *(
                    {"name": name, "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
                    for name in ("chat_id", "message_id")
                ),
                *_resumes("string", "id"),
            ],
            "responses": _events(
                'event: status\ndata: {"phase":"queued","position":3,"eta_s":12}\n\n'
                'id: 1.9.0.7f3a21bc\nevent: text\ndata: {"at":0,"text":"The Forum"}\n\n'
            ),
        }
    },
}


def complete(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """What cannot be read from the code: streams, and how each endpoint refuses."""
    result["paths"] = dict(sorted({**result["paths"], **STREAMS}.items()))
    result.setdefault("components", {}).setdefault("schemas", {})["Problem"] = PROBLEM
    body = {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for operations in result["paths"].values():
        for operation in operations.values():
            refusals = dict(REFUSALS)
            if any(parameter["name"] == "If-Match" for parameter in operation.get("parameters", ())):
                refusals["412"] = "Somebody changed it since it was read"
            for status, words in refusals.items():
                operation["responses"].setdefault(status, {"description": words, "content": body})
    return result


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How keys are described."""

    target_class = "aiia_platform.api.BearerAuthentication"
    name = "key"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {"type": "http", "scheme": "bearer", "description": "An API key, from the settings page: `sk-…`"}


class Schema(AutoSchema):
    """Groups endpoints by the noun in their address."""

    def get_tags(self) -> list[str]:
        return [self.path.split("/")[2]]


@cache
def document() -> dict[str, Any]:
    """The whole description."""
    found: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return found


class OpenApiRenderer(BaseRenderer):  # type: ignore[misc]
    """OpenAPI as JSON."""

    media_type = "application/vnd.oai.openapi+json"
    format = "json"
    charset = None

    def render(self, data: Any, media_type: Any = None, context: Any = None) -> bytes:
        return json.dumps(data, default=str).encode()


class Describe(APIView):  # type: ignore[misc]
    """`GET`: the description, as JSON."""

    renderer_classes = [OpenApiRenderer]

    @extend_schema(exclude=True)
    def get(self, request: Any) -> Response:
        return Response(document())
