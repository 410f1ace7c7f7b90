"""Asking a process on this machine whether it is ready. Probes never raise."""

import asyncio
import json
from typing import Any

_TIMEOUT_S = 2.0


async def _exchange(host: str, port: int, request: bytes, end: bytes | None = None) -> bytes:
    """Send, then read to the end of the connection, or as far as `end`."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request)
        return await (reader.read() if end is None else reader.readuntil(end))
    except asyncio.IncompleteReadError as error:
        return error.partial
    finally:
        writer.close()


async def tcp(host: str, port: int) -> bool:
    """Whether something listens."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), _TIMEOUT_S)
        writer.close()
    except (OSError, TimeoutError):
        return False
    return True


async def redis(host: str, port: int) -> bool:
    """Whether a Redis answers commands (it need not let us in)."""
    try:
        answer = await asyncio.wait_for(_exchange(host, port, b"PING\r\n", end=b"\r\n"), _TIMEOUT_S)
    except (OSError, TimeoutError):
        return False
    return answer.startswith((b"+PONG", b"-NOAUTH"))


async def http(host: str, port: int, path: str, patience: float = _TIMEOUT_S) -> tuple[int, bytes]:
    """GET over HTTP/1.0: status (0 without an answer) and body."""
    name = f"[{host}]" if ":" in host else host
    request = f"GET {path} HTTP/1.0\r\nHost: {name}:{port}\r\nUser-Agent: aiia\r\n\r\n".encode()
    try:
        answer = await asyncio.wait_for(_exchange(host, port, request), patience)
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(None, 2)[1]), body
    except (OSError, TimeoutError, ValueError, IndexError):
        return 0, b""


async def http_ok(host: str, port: int, path: str) -> bool:
    """Whether GET answers 200."""
    return (await http(host, port, path))[0] == 200


async def http_json(host: str, port: int, path: str, patience: float = _TIMEOUT_S) -> dict[str, Any] | None:
    """The JSON object that GET answers, with whatever status, or None."""
    _, body = await http(host, port, path, patience)
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None
