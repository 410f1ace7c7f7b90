"""Logs as one JSON object per line. Prompts and answers never go into them."""

import json
import logging
import time
import traceback
from contextvars import ContextVar
from types import TracebackType

from opentelemetry import trace

#: What the request that is being served is called in the logs and headers of all roles.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


class JsonFormatter(logging.Formatter):
    """Writes time, level, logger and message, the ids of request and trace, and the dict given as
    `extra={"fields": {...}}`."""

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
            line["exception"] = describe(record.exc_info[1], record.exc_info[2])
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


def _ids() -> dict[str, str]:
    ids = {"request_id": found} if (found := request_id.get()) else {}
    context = trace.get_current_span().get_span_context()
    return ids | {"trace_id": trace.format_trace_id(context.trace_id)} if context.is_valid else ids
