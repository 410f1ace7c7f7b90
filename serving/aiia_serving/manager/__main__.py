"""``python -m aiia_serving manager``: the manager with its HTTP interface (see docs/developers/architecture.md)."""

import asyncio
import os
import signal

from aiohttp import web

from aiia_serving.logs import configure_logging
from aiia_serving.manager.api import application
from aiia_serving.manager.manager import Manager
from aiia_serving.settings import read_secret


async def serve(manager: Manager) -> None:
    """Runs until the process is told to end."""
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


async def _main() -> None:
    await serve(Manager.from_environment())


def main() -> None:
    configure_logging()
    asyncio.run(_main())


if __name__ == "__main__":
    main()
