"""Bodies of ``multipart/form-data``, as a JSON body would have said the same."""

import base64
import io
import json
import re
from collections.abc import Mapping
from typing import Any

from python_multipart import create_form_parser
from python_multipart.exceptions import FormParserError

from aiia_serving.gateway.errors import ApiError

_MOST_PARTS = 200
_KEY = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
# What stays text inside lists and objects, whatever it looks like.
_TEXTS = {"name", "preprocessor", "image", "image_url"}
_JSON_FIELDS = {"loras", "control", "outpaint", "upscale"}


def is_form(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").lower().startswith("multipart/form-data")


def read_form(body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """The fields, files as base64. Keys may repeat (``image[]``) and nest (``outpaint[left]``, ``loras[][name]``), as
    openai-python writes them; lists and objects may also be JSON in one field. Raises ``ApiError`` 400."""
    found: list[tuple[str, Any]] = []

    def keep(name: bytes | None, value: Any) -> None:
        if len(found) >= _MOST_PARTS:
            raise FormParserError(f"more than {_MOST_PARTS} parts")
        found.append(((name or b"").decode("utf-8", "replace"), value))

    def on_field(field: Any) -> None:
        keep(field.field_name, (field.value or b"").decode())

    def on_file(file: Any) -> None:
        file.file_object.seek(0)
        keep(file.field_name, base64.b64encode(file.file_object.read()).decode())
        file.close()

    try:
        parser = create_form_parser(
            {"Content-Type": headers["content-type"].encode("latin-1")},
            on_field,
            on_file,
            # The body is in memory already: nothing goes to the disk.
            config={"MAX_MEMORY_FILE_SIZE": len(body) + 1},
        )
        stream = io.BytesIO(body)
        while piece := stream.read(1 << 20):
            parser.write(piece)
        parser.finalize()
    except (FormParserError, UnicodeDecodeError, ValueError) as error:
        raise ApiError(400, f"The request body is not a valid form: {error}.", code="invalid_form") from error
    form: dict[str, Any] = {}
    for key, value in found:
        _put(form, key, value)
    for name in {key.partition("[")[0] for key, _ in found if "[][" in key}:
        _same_keys(name, form[name])
    return form


def _same_keys(name: str, items: list[dict[str, Any]]) -> None:
    # Which object lacks a field could not be told.
    if any(item.keys() != items[0].keys() for item in items):
        message = f"Invalid '{name}': in a form all its objects need the same fields; or send it as JSON in one field."
        raise ApiError(400, message, code="invalid_form", param=name)


def _put(form: dict[str, Any], key: str, value: Any) -> None:
    matched = _KEY.fullmatch(key)
    if matched is None:
        raise ApiError(400, f"The form has a field of an unreadable name: '{key[:100]}'.", code="invalid_form")
    name, steps = matched[1], re.findall(r"\[([^\[\]]*)\]", matched[2])
    wrong = ApiError(400, f"The form's fields '{name}' contradict each other.", code="invalid_form", param=name)
    match steps:
        case []:
            if name in form:
                # A file twice under one name is a list; any other field twice a mistake.
                if name != "image":
                    raise wrong
                earlier = form[name]
                form[name] = [*(earlier if isinstance(earlier, list) else [earlier]), value]
            else:
                form[name] = _json(name, value)
        case [""]:
            if not isinstance(form.setdefault(name, []), list):
                raise wrong
            form[name].append(value)
        case [inner] if inner:
            if not isinstance(form.setdefault(name, {}), dict):
                raise wrong
            form[name][inner] = _scalar(inner, value)
        case ["", inner] if inner:
            items = form.setdefault(name, [])
            if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                raise wrong
            # Clients send all values of one key, then all of the next: the first value belongs to the first object.
            item = next((item for item in items if inner not in item), None)
            if item is None:
                items.append(item := {})
            item[inner] = _scalar(inner, value)
        case _:
            raise wrong


def _json(name: str, value: str) -> Any:
    if name not in _JSON_FIELDS:
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"Invalid '{name}': it is not JSON.", code="invalid_value", param=name) from error


def _scalar(name: str, value: str) -> Any:
    if name in _TEXTS:
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
