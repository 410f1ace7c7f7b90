"""``python -m aiia_serving manager``: the manager with its HTTP interface (see docs/developers/architecture.md)."""

import asyncio
import hmac
import os
import signal

from aiohttp import web

from aiia_serving.logs import configure_logging
from aiia_serving.manager.manager import Manager
from aiia_serving.settings import read_secret

_LONGEST_WAIT_S = 60.0


def application(manager: Manager, token: str | None) -> web.Application:
    """``GET /state`` for the holder of ``token``, ``GET /healthz`` for everyone."""

    async def state(request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "")
        if not token or not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            return web.json_response({"error": "the internal token is wanted"}, status=401)
        try:
            wait = min(float(request.query.get("wait", "0")), _LONGEST_WAIT_S)
        except ValueError:
            return web.json_response({"error": "wait is a number of seconds"}, status=400)
        report = await manager.board.wait(request.query.get("after", ""), wait)
        return web.Response(body=report.model_dump_json().encode(), content_type="application/json")

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app = web.Application()
    app.router.add_get("/state", state)
    app.router.add_get("/healthz", healthz)
    return app


async def serve() -> None:
    manager = Manager.from_environment()
    # A gateway's long poll must not hold up the end; 0 would wait for it without limit.
    runner = web.AppRunner(
        application(manager, read_secret("AIIA_INTERNAL_TOKEN")), access_log=None, shutdown_timeout=0.1
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(os.environ.get("AIIA_MANAGER_PORT", "8001"))).start()
    running = asyncio.create_task(manager.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        pass
    finally:
        await runner.cleanup()


def main() -> None:
    configure_logging()
    asyncio.run(serve())


if __name__ == "__main__":
    main()
