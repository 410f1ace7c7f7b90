"""`python -m aiia_web`: serve the pages, and the gateway where it is mounted."""

import uvicorn

from aiia_platform.config import config
from aiia_platform.observability.tracing import configure_tracing


def main() -> None:
    configure_tracing("web")
    uvicorn.run(
        "aiia_web.asgi:application",
        host=config().host,
        port=config().port,
        lifespan="on" if config().gateway_app else "off",
        loop="uvloop",
        http="httptools",
        # A client that was following an answer must not hold up a stop.
        timeout_graceful_shutdown=3,
        server_header=False,
        access_log=False,
        # Django's configuration of the logs is for all of the process.
        log_config=None,
    )


if __name__ == "__main__":
    main()
