"""A person without a browser: signs up, sends messages and reads what is stored, from outside of a whole instance."""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import psycopg

from tests.support.instance import Instance

PASSWORD = "correct horse battery"


@dataclass(frozen=True)
class Stored:
    """A generation as Postgres has it."""

    id: str
    state: str
    text: str
    prompt_ids: list[int]
    output_ids: list[int]
    attempt: int
    error: str


class Visitor:
    """Signed up on an instance. Database reads wait out a Postgres that is restarting."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.http = httpx.Client(base_url=instance.address, follow_redirects=True, timeout=30)
        self.post("/accounts/signup/", username=f"ada{uuid4().hex[:8]}", password1=PASSWORD)

    def close(self) -> None:
        self.http.close()

    def post(self, path: str, **fields: str) -> httpx.Response:
        """Post a form as a page without scripts does. Raises `httpx.HTTPStatusError` for a refusal."""
        if "csrftoken" not in self.http.cookies:
            self.http.get(path)
        form = {"csrfmiddlewaretoken": self.http.cookies["csrftoken"], **fields}
        response = self.http.post(path, data=form, headers={"Referer": self._instance.address})
        response.raise_for_status()
        return response

    def send(self, text: str, model: str) -> Stored:
        """Send a message in a new chat."""
        message_id = uuid4()
        self.post(f"/chats/{uuid4()}/messages/", message_id=str(message_id), text=text, model=model)
        return self._stored("m.parent_id = %s", str(message_id))

    def stored(self, generation: Stored) -> Stored:
        return self._stored("g.id = %s", generation.id)

    def wait(self, generation: Stored, ready: Callable[[Stored], bool], within: float) -> Stored:
        """The generation as soon as it is so. Polls, since what is watched may be what is broken."""
        deadline = time.monotonic() + within
        while not ready(row := self.stored(generation)):
            assert time.monotonic() < deadline, (
                f"{row.state}: {row.error or row.text[-200:]}\n{self._instance.log_tail()}"
            )
            time.sleep(0.05)
        return row

    def wait_afterwords(self, within: float) -> None:
        """Returns when no title, tag or question is being made any more, of anybody."""
        deadline = time.monotonic() + within
        query = "SELECT count(*) FROM afterwords_afterword WHERE state = 'pending'"
        with psycopg.connect(self._instance.database_url, autocommit=True) as connection:
            while connection.execute(query).fetchone() != (0,):
                assert time.monotonic() < deadline, self._instance.log_tail()
                time.sleep(0.05)

    @contextmanager
    def follow(self, generation: Stored, after: str = "") -> Iterator[Iterator[tuple[str, str, Any]]]:
        """The server-sent events of a generation as `(event, id, data)`."""
        path = f"/generations/{generation.id}/events/"
        with self.http.stream("GET", path, headers={"Last-Event-ID": after} if after else {}) as response:
            yield _events(response.iter_lines())

    def _stored(self, where: str, value: str) -> Stored:
        query = (
            "SELECT g.id::text, g.state, m.text, g.prompt_ids, g.output_ids, g.attempt, g.error "
            "FROM generations_generation g JOIN chats_message m ON m.id = g.message_id WHERE " + where
        )
        with psycopg.connect(self._instance.database_url) as connection:
            row = connection.execute(query, [value]).fetchone()
        assert row is not None
        return Stored(*row)


def _events(lines: Iterator[str]) -> Iterator[tuple[str, str, Any]]:
    event, place, data = "", "", ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "id":
            place = value
        elif name == "data":
            data = value
        elif not line and data:
            yield event, place, json.loads(data)
            event, data = "", ""


def plain(html: str) -> str:
    """The words of rendered text."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())
