"""`/api/models/`: everybody sees the models, administrators change them. The manager checks what it is told."""

import json
from dataclasses import asdict
from typing import Any

from asgiref.sync import async_to_sync
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework.response import Response  # type: ignore[import-untyped]
from rest_framework.views import APIView  # type: ignore[import-untyped]

from aiia_platform.api import AdministratorsChange
from aiia_platform.catalogue import manager

_change = async_to_sync(manager.change)


_VERBS = ["load", "unload", "pull", "scale"]


def _body(request: Any) -> bytes:
    return json.dumps(request.data).encode() if request.data else b""


class _Endpoint(APIView):  # type: ignore[misc]  # the framework has no types
    permission_classes = [AdministratorsChange]


@extend_schema(responses=OpenApiTypes.OBJECT)
class Models(_Endpoint):
    """`GET`: `{"models": […]}`, each in the shape of `manager.ManagedModel`."""

    @extend_schema(summary="All models with their states and queues", operation_id="models_list")
    def get(self, request: Any) -> Response:
        return Response({"models": [asdict(model) for model in async_to_sync(manager.models)()]})


@extend_schema(responses=OpenApiTypes.OBJECT)
@extend_schema_view(
    get=extend_schema(summary="A model"),
    put=extend_schema(
        summary="Add a model, or replace its document",
        description="The whole document, as JSON or YAML.",
        request={"application/json": {"type": "object", "additionalProperties": {}}},
        responses={204: None},
    ),
    delete=extend_schema(summary="Remove a model", responses={204: None}),
)
class Model(_Endpoint):
    """`GET`: one model. `PUT`: its whole document, JSON or YAML. `DELETE`: an owner's document goes, and the model."""

    def get(self, request: Any, model_id: str) -> Response:
        return Response(asdict(async_to_sync(manager.model)(model_id)))

    def put(self, request: Any, model_id: str) -> Response:
        _change("PUT", manager.model_path(model_id), request.body, request.content_type)
        return Response(status=204)

    def delete(self, request: Any, model_id: str) -> Response:
        _change("DELETE", manager.model_path(model_id))
        return Response(status=204)


@extend_schema(
    summary="load, unload, pull or scale a model",
    description='`scale` takes `{"min_replicas", "max_replicas"}`; events tell the rest.',
    request={"application/json": {"type": "object", "additionalProperties": {}}},
    responses={202: OpenApiTypes.OBJECT},
    parameters=[
        OpenApiParameter("verb", OpenApiTypes.STR, OpenApiParameter.PATH, enum=["load", "unload", "pull", "scale"])
    ],
)
class Action(_Endpoint):
    """`POST`: `load`, `unload`, `pull`, or `scale` with `{"min_replicas", "max_replicas"}`; events tell the rest."""

    def post(self, request: Any, model_id: str, verb: str) -> Response:
        return Response(_change("POST", manager.model_path(model_id, verb), _body(request)), status=202)


@extend_schema(summary="Ready documents, and whether they fit this machine", responses=OpenApiTypes.OBJECT)
class Catalogue(_Endpoint):
    """`GET`: `{"machine": {…}, "models": […]}`, the ready documents with whether they fit this machine and why not."""

    def get(self, request: Any) -> Response:
        return Response(async_to_sync(manager.catalogue)())


@extend_schema(summary="Add a model from a ready document", request=None, responses={201: OpenApiTypes.OBJECT})
class CatalogueEntry(_Endpoint):
    """`POST`: make a ready document one of the owner's, which starts its model; `{"overrides": {…}}` changes it."""

    def post(self, request: Any, name: str) -> Response:
        return Response(_change("POST", manager.catalogue_path(name), _body(request)), status=201)
