"""Passes bytes on and does nothing else: the least that any process in between costs, for the overhead benchmark.

``python -m loadtests.bare_relay PORT TARGET_PORT``, both on loopback.
"""

import asyncio
import sys
from typing import cast

import uvloop


class _Half(asyncio.Protocol):
    """One of the two connections of a pair."""

    def __init__(self, other: "_Half | None" = None) -> None:
        self.other = other
        self.transport: asyncio.Transport | None = None
        self.waiting: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.other is not None:
            self.other.other = self
            if self.other.waiting:
                self.transport.write(b"".join(self.other.waiting))

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)
        else:
            self.waiting.append(data)

    def connection_lost(self, _: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


async def serve(port: int, target: int) -> None:
    loop = asyncio.get_running_loop()
    connecting: set[asyncio.Task[object]] = set()

    class Accepted(_Half):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            task: asyncio.Task[object] = loop.create_task(
                loop.create_connection(lambda: _Half(self), "127.0.0.1", target)
            )
            connecting.add(task)
            task.add_done_callback(connecting.discard)

    server = await loop.create_server(Accepted, "127.0.0.1", port)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
