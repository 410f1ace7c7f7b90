"""`/api/models/`: everybody sees the models, administrators change them. The manager checks what it is told."""

import json
from dataclasses import asdict
from typing import Any

from asgiref.sync import async_to_sync
from rest_framework.response import Response  # type: ignore[import-untyped]
from rest_framework.views import APIView  # type: ignore[import-untyped]

from aiia_platform.api import AdministratorsChange
from aiia_platform.catalogue import manager

_change = async_to_sync(manager.change)


def _body(request: Any) -> bytes:
    return json.dumps(request.data).encode() if request.data else b""


class _Endpoint(APIView):  # type: ignore[misc]  # the framework has no types
    permission_classes = [AdministratorsChange]


class Models(_Endpoint):
    """`GET`: `{"models": […]}`, each in the shape of `manager.ManagedModel`."""

    def get(self, request: Any) -> Response:
        return Response({"models": [asdict(model) for model in async_to_sync(manager.models)()]})


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


class Action(_Endpoint):
    """`POST`: `load`, `unload`, `pull`, or `scale` with `{"min_replicas", "max_replicas"}`; events tell the rest."""

    def post(self, request: Any, model_id: str, verb: str) -> Response:
        return Response(_change("POST", manager.model_path(model_id, verb), _body(request)), status=202)


class Catalogue(_Endpoint):
    """`GET`: `{"machine": {…}, "models": […]}`, the ready documents with whether they fit this machine and why not."""

    def get(self, request: Any) -> Response:
        return Response(async_to_sync(manager.catalogue)())


class CatalogueEntry(_Endpoint):
    """`POST`: make a ready document one of the owner's, which starts its model; `{"overrides": {…}}` changes it."""

    def post(self, request: Any, name: str) -> Response:
        return Response(_change("POST", manager.catalogue_path(name), _body(request)), status=201)
