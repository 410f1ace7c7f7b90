"""`python -m aiia_web`: serve the pages, and the gateway where it is mounted."""

import uvicorn

from aiia_platform.config import config


def main() -> None:
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
    )


if __name__ == "__main__":
    main()
