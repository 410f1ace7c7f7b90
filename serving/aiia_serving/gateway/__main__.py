"""``python -m aiia_serving gateway``: the gateway as a process of its own."""

import gc
import os

import uvicorn

from aiia_serving.gateway.app import app
from aiia_serving.logs import configure_logging
from aiia_serving.tracing import configure_tracing


def main() -> None:
    configure_logging()
    configure_tracing("aiia-gateway")
    # What is loaded stays. Looking through all of it for garbage would hold up every answer that is being relayed.
    gc.collect()
    gc.freeze()
    uvicorn.run(
        app,
        host=os.environ.get("AIIA_HOST", "127.0.0.1"),
        port=int(os.environ.get("AIIA_PORT", "8000")),
        access_log=False,
        log_config=None,
        loop="uvloop",
        http="httptools",
        timeout_graceful_shutdown=10,
        server_header=False,
    )


if __name__ == "__main__":
    main()
