"""Many readers of running answers beside each other."""

import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from tests.e2e.gateway import Script
from tests.e2e.site import Site

pytestmark = pytest.mark.integration

#: More than there are connections to the database.
FOLLOWERS = 24


@pytest.fixture
def signed_in(site: Site) -> Iterator[httpx.Client]:
    """A new person's browser, without scripts."""
    with httpx.Client(base_url=site.url, timeout=15, limits=httpx.Limits(max_connections=None)) as client:
        client.get("/accounts/signup/")
        form = {"username": f"eve{uuid.uuid4().hex[:8]}", "password1": "correct horse battery"}
        assert client.post("/accounts/signup/", data=form | _token(client)).status_code == 302
        yield client


def _token(client: httpx.Client) -> dict[str, str]:
    return {"csrfmiddlewaretoken": client.cookies["csrftoken"]}


def test_pages_answer_while_many_follow(site: Site, signed_in: httpx.Client) -> None:
    hold = threading.Event()
    site.gateway.script = Script(text="Rome.", hold=hold)
    chat = f"/chats/{uuid.uuid4()}/"
    form = {"text": "Rome?", "model": "scripted", "message_id": str(uuid.uuid4())}
    assert signed_in.post(f"{chat}messages/", data=form | _token(signed_in)).status_code == 302
    address = signed_in.get(chat).text.split('data-stream="')[1].split('"')[0]
    with ExitStack() as stack:
        streams = []
        for _ in range(FOLLOWERS):
            response = stack.enter_context(signed_in.stream("GET", address))
            lines = response.iter_lines()
            # It is being followed from its first event on.
            assert any(line.startswith("event: status") for line in lines)
            streams.append(lines)
        assert signed_in.get(chat).status_code == 200
        hold.set()
        for lines in streams:
            assert any(line == "event: done" for line in lines)
    assert "Rome." in signed_in.get(chat).text
