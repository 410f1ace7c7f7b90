"""The description of the REST API as a page to read."""

import json
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from aiia_platform.schema import document
from aiia_web.access import SignedInRequest, signed_in

#: How deep bodies are shown; nobody reads further.
_DEPTH = 4


@dataclass(frozen=True)
class Operation:
    """An endpoint as the page shows it. `curl` is a command that calls it."""

    id: str
    method: str
    path: str
    summary: str
    description: str
    parameters: list[dict[str, Any]]
    body: str
    answers: list[tuple[str, str, str]]

    @property
    def tag(self) -> str:
        return self.path.split("/")[2]

    def curl(self, host: str) -> str:
        lines = [f"curl {host}{self.path}", '-H "Authorization: Bearer $AIIA_API_KEY"']
        if self.method != "GET":
            lines[0] = lines[0].replace("curl", f"curl -X {self.method}")
        if self.body:
            lines += ['-H "Content-Type: application/json"', f"-d '{self.body}'"]
        return " \\\n  ".join(lines)


@signed_in
@require_safe
def show(request: SignedInRequest) -> HttpResponse:
    """Every endpoint with its parameters, examples and answers."""
    host = f"{request.scheme}://{request.get_host()}"
    groups = [
        (tag, [(operation, operation.curl(host)) for operation in found])
        for tag, found in groupby(operations(), lambda operation: operation.tag)
    ]
    return render(request, "api_docs.html", {"groups": groups, "host": host})


@cache
def operations() -> list[Operation]:
    """All endpoints, in the order of their addresses."""
    schema = document()
    found = []
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            if method not in {"get", "post", "put", "patch", "delete"}:
                continue
            found.append(
                Operation(
                    id=operation["operationId"],
                    method=method.upper(),
                    path=path,
                    summary=operation.get("summary") or operation["operationId"].replace("_", " ").capitalize(),
                    description=operation.get("description", ""),
                    parameters=operation.get("parameters", []),
                    body=_example(operation.get("requestBody", {}).get("content", {}), schema),
                    answers=[
                        (status, answer.get("description", ""), _example(answer.get("content", {}), schema))
                        for status, answer in sorted(operation["responses"].items())
                        if status < "300"
                    ],
                )
            )
    return found


def _example(content: dict[str, Any], schema: dict[str, Any]) -> str:
    for kind, body in content.items():
        if examples := list(body.get("examples", {}).values()):
            return json.dumps(examples[0]["value"], indent=2, ensure_ascii=False)
        if "example" in body:
            example = body["example"]
            return example if isinstance(example, str) else json.dumps(example, indent=2, ensure_ascii=False)
        if "json" in kind:
            return json.dumps(_sample(body.get("schema", {}), schema, _DEPTH), indent=2, ensure_ascii=False)
    return ""


def _sample(shape: dict[str, Any], schema: dict[str, Any], depth: int) -> Any:
    """A value of a shape, made of the names of types."""
    if "$ref" in shape:
        return _sample(schema["components"]["schemas"][shape["$ref"].rsplit("/", 1)[1]], schema, depth)
    for several in ("allOf", "oneOf", "anyOf"):
        if several in shape:
            return _sample(shape[several][0], schema, depth)
    if "example" in shape or "default" in shape:
        return shape.get("example", shape.get("default"))
    if "enum" in shape:
        return shape["enum"][0]
    match shape.get("type"):
        case "object" if depth:
            properties = shape.get("properties", {})
            return {name: _sample(part, schema, depth - 1) for name, part in properties.items()}
        case "array" if depth:
            return [_sample(shape.get("items", {}), schema, depth - 1)]
        case "integer":
            return shape.get("minimum", 0)
        case "number":
            return 0.0
        case "boolean":
            return True
        case "string":
            return {"date-time": "2026-01-31T12:00:00Z", "date": "2026-01-31"}.get(shape.get("format", ""), "text")
    return {}
