"""The description of the REST API is true, and nothing that fits it breaks the server."""

import io
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
import yaml
from django.core.cache import cache
from django.core.management import call_command
from django.test import Client
from django.urls import URLPattern, get_resolver
from hypothesis import HealthCheck, settings

from aiia_platform.accounts.models import ApiKey, User
from aiia_platform.schema import document

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

COPY = Path(__file__).parents[2] / "docs/api/openapi.yaml"
#: Pages to read, and the description itself.
UNDESCRIBED = {"api-docs", "api-schema"}


def test_the_copy_in_the_repository_is_what_is_served(user: User) -> None:
    client = Client(headers={"Authorization": f"Bearer {ApiKey.create(user, 'test')[1]}"})
    served = client.get("/api/schema/").json()
    printed = io.StringIO()
    call_command("describe_api", stdout=printed)
    assert COPY.read_text() == printed.getvalue(), "run: python -m aiia_platform describe_api > docs/api/openapi.yaml"
    assert yaml.safe_load(COPY.read_text()) == served


def _addresses(resolver: Any = None, prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for entry in (resolver or get_resolver()).url_patterns:
        path = prefix + str(entry.pattern)
        if isinstance(entry, URLPattern):
            found.append((path.lstrip("^"), entry.name or ""))
        else:
            found += _addresses(entry, path)
    return found


def test_every_endpoint_is_described() -> None:
    endpoints = {name for path, name in _addresses() if path.startswith("api/")} - UNDESCRIBED
    assert len(endpoints) == len(document()["paths"])


def test_every_operation_has_a_summary_and_says_how_it_refuses() -> None:
    for path, operations in document()["paths"].items():
        for method, operation in operations.items():
            assert operation.get("summary"), f"{method} {path}"
            assert {"400", "401", "403", "404", "429"} <= set(operation["responses"])


schema = schemathesis.openapi.from_dict(document())


@schema.parametrize()
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
def test_nothing_breaks_the_server(case: Any, admin_key: str) -> None:
    # So many requests are no accident here.
    cache.clear()
    request = requests.Request(**case.as_transport_kwargs(base_url="http://testserver")).prepare()
    # Not as a server gets it, which would close the connection that holds the test's transaction.
    response = Client(raise_request_exception=False).generic(
        request.method or "GET",
        request.path_url,
        request.body or b"",
        str(request.headers.get("Content-Type", "")),
        headers={"Authorization": f"Bearer {admin_key}"},
    )
    # 503: there is no manager of models here.
    assert response.status_code < 500 or response.status_code == 503, f"{request.method} {request.path_url}"


@pytest.fixture
def admin_key(db: None) -> str:
    admin = User.objects.create_user("root", password="correct horse battery", is_staff=True, is_superuser=True)
    # Whatever is done to this one, an administrator is left.
    User.objects.create_user("rescue", password="correct horse battery", is_staff=True)
    return ApiKey.create(admin, "test")[1]
