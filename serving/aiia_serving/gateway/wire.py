"""An HTTP/1.1 client for one thing: to hand the bytes of a model's stream on with as little as possible in between.

A general client wakes a task for every piece that arrives; here a piece is given to a plain function as soon as the
event loop has it. Connections are kept and used again.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httptools

# Servers close idle connections after 5 s and more; one that is about to be closed is not worth a try.
_IDLE_S = 4.0
_CONNECT_S = 5.0
_MAX_IDLE = 256

Address = tuple[str, int, bool]


class WireError(OSError):
    """The connection could not be made, broke, or did not speak HTTP."""


class Response:
    """The answer to one request. Its body comes in pieces, to ``sink`` or to whoever iterates over it."""

    def __init__(self, connection: "_Connection", client: "Client") -> None:
        self._connection = connection
        self._client = client
        self.status = 0
        self.headers: dict[str, str] = {}
        # Ends with the body; fails with WireError when the connection breaks before.
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting: list[bytes] = []
        self._arrived = asyncio.Event()
        self._sink: Callable[[bytes], None] | None = None

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def attach(self, sink: Callable[[bytes], None]) -> None:
        """From now on every piece goes to ``sink``, those that have arrived at once."""
        self._sink = sink
        waiting, self._waiting = self._waiting, []
        for piece in waiting:
            sink(piece)

    def pause(self) -> None:
        self._connection.pause()

    def resume(self) -> None:
        self._connection.resume()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises ``WireError``."""
        while True:
            while self._waiting:
                yield self._waiting.pop(0)
            if self.ended.done():
                self.ended.result()
                return
            self._arrived.clear()
            await self._arrived.wait()

    async def read(self) -> bytes:
        """The whole body. Raises ``WireError``."""
        return b"".join([piece async for piece in self.pieces()])

    def release(self) -> None:
        """Gives the connection back if the body has ended, and else closes it, which the server notices."""
        self._client.give_back(self._connection)

    def feed(self, piece: bytes) -> None:
        if self._sink is not None:
            self._sink(piece)
        else:
            self._waiting.append(piece)
            self._arrived.set()

    def end(self, error: WireError | None) -> None:
        if not self.ended.done():
            if error is None:
                self.ended.set_result(None)
            else:
                self.ended.set_exception(error)
                # Whoever has let go of the response does not ask any more.
                self.ended.exception()
        self._arrived.set()


class Client:
    """Sends requests; keeps connections per address."""

    def __init__(self) -> None:
        self._idle: dict[Address, list[_Connection]] = {}
        self._tls: ssl.SSLContext | None = None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Response:
        """The response once its headers are there. Raises ``WireError``."""
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        address = (parts.hostname or "", parts.port or (443 if tls else 80), tls)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        lines = [f"POST {target} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if any("\r" in line or "\n" in line for line in lines):
            raise WireError("a line break in a header")
        request = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
        if (connection := self._take(address)) is not None:
            # The server may have closed it in this very moment. Or it fell over this very request, so only once more.
            with suppress(WireError):
                return await connection.send(request, Response(connection, self))
        connection = await self._connect(address)
        return await connection.send(request, Response(connection, self))

    def give_back(self, connection: "_Connection") -> None:
        idle = self._idle.setdefault(connection.address, [])
        if connection.reusable and len(idle) < _MAX_IDLE:
            connection.idle_since = asyncio.get_running_loop().time()
            idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()

    def _take(self, address: Address) -> "_Connection | None":
        idle = self._idle.get(address, [])
        oldest = asyncio.get_running_loop().time() - _IDLE_S
        while idle:
            connection = idle.pop()
            if connection.open and connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    async def _connect(self, address: Address) -> "_Connection":
        host, port, tls = address
        if tls and self._tls is None:
            self._tls = ssl.create_default_context()
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(address), host, port, ssl=self._tls if tls else None
                )
        except (OSError, TimeoutError) as error:
            raise WireError(f"{type(error).__name__} at connecting") from error
        return connection


class _Connection(asyncio.Protocol):
    """One connection with at most one request at a time. The ``on_`` methods are httptools' callbacks."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.idle_since = 0.0
        self.open = False
        self.reusable = False
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._response: Response | None = None
        self._headers_there: asyncio.Future[None] | None = None
        self._ends_with_connection = False

    async def send(self, request: bytes, response: Response) -> Response:
        if self._transport is None or not self.open:
            raise WireError("the connection is closed")
        self.reusable = False
        self._parser = httptools.HttpResponseParser(self)
        self._response = response
        self._headers_there = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            await self._headers_there
        except asyncio.CancelledError:
            self.close()
            raise
        return response

    def close(self) -> None:
        self.open = self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        if self._transport is not None and self.open:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and self.open:
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream transport, as asked for
        self.open = True

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            # Nothing was asked.
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(WireError(f"not HTTP: {type(error).__name__}"))
            self.close()

    def connection_lost(self, _: Exception | None) -> None:
        self.open = self.reusable = False
        whole = self._ends_with_connection and self._headers_there is not None and self._headers_there.done()
        self._fail(None if whole else WireError("the connection broke"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._response is not None:
            self._response.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._response is None or self._headers_there is None:
            return
        self._response.status = self._parser.get_status_code()
        headers = self._response.headers
        self._ends_with_connection = "content-length" not in headers and "transfer-encoding" not in headers
        if not self._headers_there.done():
            self._headers_there.set_result(None)

    def on_body(self, piece: bytes) -> None:
        if self._response is not None:
            self._response.feed(piece)

    def on_message_complete(self) -> None:
        response, self._response = self._response, None
        self.reusable = self.open and self._parser.should_keep_alive()
        if response is not None:
            response.end(None)

    def _fail(self, error: WireError | None) -> None:
        if self._headers_there is not None and not self._headers_there.done():
            self._headers_there.set_exception(error or WireError("the connection broke"))
            self._headers_there.exception()
        response, self._response = self._response, None
        if response is not None:
            response.end(error)
