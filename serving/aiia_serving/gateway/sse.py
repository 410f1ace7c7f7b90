"""Server-sent events as models send them, handled as bytes: frames are split, and read only where they must be."""

import json
import re
from typing import Any

DONE_FRAME = b"data: [DONE]\n\n"

# The space after the colon is a server's choice.
_DONE_AT_END = re.compile(rb"data: ?\[DONE\]\s*$")
_ERRORS = (b'data: {"error"', b'data:{"error"')
_USAGE = re.compile(rb'"usage": ?\{')
# With what stands before or after it, so that what is left is JSON. Inside a text the quotes would be escaped.
_ID_FIELD = rb'"(?:prompt_token_ids|token_ids)": ?(?:\[[^\]]*\]|null)'
_IDS = re.compile(rb", ?" + _ID_FIELD + rb"|" + _ID_FIELD + rb", ?")
# A frame is a few hundred bytes; a stream that never ends one must not fill the memory.
_MAX_FRAME = 16 * 1024 * 1024


class FrameTooLongError(Exception):
    """A stream sent more than a frame's bound without ending the frame."""


class FrameBuffer:
    """Cuts a stream of bytes after its last whole frame, so that what is passed on never ends inside one.

    Its lines may end as the server likes; those that are passed on end with a line feed.
    """

    def __init__(self, max_frame: int = _MAX_FRAME) -> None:
        self._rest = b""
        self._max_frame = max_frame

    def feed(self, chunk: bytes) -> bytes:
        """All whole frames so far that have not been returned yet. Raises ``FrameTooLongError``."""
        if self._rest:
            chunk = self._rest + chunk
            self._rest = b""
        if b"\r" in chunk:
            # Inside of JSON they would be escaped.
            chunk = chunk.replace(b"\r\n", b"\n")
        if chunk.endswith(b"\n\n"):
            return chunk
        end = chunk.rfind(b"\n\n")
        end = 0 if end == -1 else end + 2
        self._rest = chunk[end:]
        if len(self._rest) > self._max_frame:
            raise FrameTooLongError
        return chunk[:end]


def is_done(frames: bytes) -> bool:
    """Whether whole ``frames`` end with OpenAI's end mark."""
    end = frames[-24:]
    return b"[DONE]" in end and _DONE_AT_END.search(end) is not None


def has_error(frames: bytes) -> bool:
    """Whether one of the whole ``frames`` is OpenAI's error object. Text never matches: JSON escapes its quotes."""
    return b'{"error"' in frames and any(error in frames for error in _ERRORS)


def split_error(frames: bytes) -> tuple[bytes, Any]:
    """The whole ``frames`` before the first that is an error object, and that object. Raises ``ValueError``."""
    at = min(place for error in _ERRORS if (place := frames.find(error)) >= 0)
    # It may have the name of an event before it.
    start = frames.rfind(b"\n\n", 0, at)
    end = frames.index(b"\n", at)
    return frames[: 0 if start == -1 else start + 2], json.loads(frames[at:end].partition(b":")[2])["error"]


def has_usage(frames: bytes) -> bool:
    """Whether one of the whole ``frames`` reports usage."""
    return b'"usage"' in frames and _USAGE.search(frames) is not None


def take_usage(frames: bytes, *, keep: bool) -> tuple[bytes, dict[str, Any] | None]:
    """The frames and the last usage among them. Unless ``keep``, frames that hold nothing else are left out.

    Raises ``ValueError`` for one that is not JSON.
    """
    kept, usage = [], None
    for frame in frames.split(b"\n\n"):
        if _USAGE.search(frame) is not None:
            content = json.loads(b"".join(data_of(frame)))
            usage = content.get("usage") or usage
            if not keep:
                if not content.get("choices"):
                    continue
                del content["usage"]
                frame = b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        kept.append(frame)
    return b"\n\n".join(kept), usage


def without_ids(frames: bytes) -> bytes:
    """The frames without the ids of tokens, which only few callers want."""
    return _IDS.sub(b"", frames) if b"token_ids" in frames else frames


def data_of(frames: bytes) -> list[bytes]:
    """The data of each frame; comments and other fields are left out."""
    data = []
    for line in frames.splitlines():
        if line.startswith(b"data:"):
            data.append(line[5:].strip())
    return data
