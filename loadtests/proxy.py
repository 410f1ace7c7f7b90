"""A TCP proxy in front of several servers, as Ray Serve's HAProxy is in front of replicas: each connection goes to the
next server that takes it, and is closed when none does.

``python -m loadtests.proxy PORT TARGET_PORT…``, all on loopback. Prints ``ready``.
"""

import asyncio
import itertools
import sys
from contextlib import suppress

import uvloop


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


async def serve(port: int, targets: list[int]) -> None:
    turns = itertools.cycle(range(len(targets)))

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = next(turns)
        for target in targets[first:] + targets[:first]:
            with suppress(OSError):
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
                both = [asyncio.create_task(_pass(reader, far_writer)), asyncio.create_task(_pass(far_reader, writer))]
                # As soon as one side is gone the other has nobody to talk to.
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                for task in both:
                    task.cancel()
                far_writer.close()
                break
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", port)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), [int(port) for port in sys.argv[2:]]))
