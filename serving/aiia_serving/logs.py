"""Logs as one JSON object per line. Prompts and answers never go into them."""

import json
import logging
import os
import sys
import time
import traceback
from contextvars import ContextVar
from types import TracebackType

from opentelemetry import trace

#: What the request that is being served is called in the logs and headers of all roles.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


class JsonFormatter(logging.Formatter):
    """Writes time, level, logger and message, the ids of request and trace, and the dict given as
    ``extra={"fields": {...}}``.

    ``with_texts`` is for code that no prompt comes to: it writes out exceptions in full.
    """

    def __init__(self, *, with_texts: bool = False) -> None:
        super().__init__()
        self._with_texts = with_texts

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_ids(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = (
                self.formatException(record.exc_info)
                if self._with_texts
                else describe(record.exc_info[1], record.exc_info[2])
            )
        return json.dumps(line, ensure_ascii=False, default=str)


def describe(error: BaseException | None, trace_of: TracebackType | None = None) -> str:
    """Where an exception was raised and of what type it and its causes are.

    Its text is left out unless it is the system's: that of a library may quote the prompt that it failed on.
    """
    lines = traceback.format_list(traceback.extract_tb(trace_of or (error.__traceback__ if error else None)))
    chain: list[str] = []
    while error is not None and len(chain) < 10:
        said = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
        chain.append(type(error).__name__ + said)
        error = error.__cause__ or error.__context__
    return "".join(lines) + " from ".join(chain)


def configure_logging(level: int = logging.INFO) -> None:
    """Sends this process's logs to standard error as JSON lines. ``AIIA_LOG_LEVEL`` overrides ``level``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=os.environ.get("AIIA_LOG_LEVEL", "").upper() or level, handlers=[handler], force=True)


def straight_handler(*, with_texts: bool = False) -> logging.Handler:
    """Writes JSON lines to standard error itself, for processes in which a library rewrites ``sys.stderr``."""
    handler = logging.StreamHandler(open(2, "w", buffering=1, closefd=False))  # noqa: SIM115
    handler.setFormatter(JsonFormatter(with_texts=with_texts))
    return handler


def _ids() -> dict[str, str]:
    ids = {"request_id": found} if (found := request_id.get()) else {}
    context = trace.get_current_span().get_span_context()
    return ids | {"trace_id": trace.format_trace_id(context.trace_id)} if context.is_valid else ids
