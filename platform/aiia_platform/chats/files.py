"""Which files a message takes: pictures that really are some, and text."""

import io
import re
import unicodedata

from django.core.exceptions import ValidationError
from PIL import Image, UnidentifiedImageError

MAX_FILE = 10 * 1024 * 1024
#: Points of a picture; one that unpacks to more is not opened.
MAX_PIXELS = 50_000_000
#: Formats that browsers show and models read.
PICTURES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}
_UNTYPED = re.compile("[\x00-\x08\x0e-\x1f]")


def kind(content: bytes) -> str:
    """The content type of a file, by its content. Raises `ValidationError`."""
    if not content:
        raise ValidationError("The file is empty.", code="empty")
    if len(content) > MAX_FILE:
        raise ValidationError(f"A file holds {MAX_FILE // 1024 // 1024} MB at most.", code="too_large")
    if picture := _picture(content):
        return picture
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if _UNTYPED.search(text):
        raise ValidationError("PNG, JPEG, WebP and GIF pictures and text files can be sent.", code="unknown")
    return "text/plain"


def text(content: bytes) -> str:
    """The text of a text file."""
    return bytes(content).decode("utf-8-sig", "replace")


def safe_name(name: str) -> str:
    """A file's name without folders and signs that could mislead a reader."""
    base = re.split(r"[\\/]", name)[-1]
    clean = "".join(c for c in unicodedata.normalize("NFC", base) if unicodedata.category(c)[0] != "C").strip()
    return clean[-200:] or "file"


def _picture(content: bytes) -> str:
    try:
        with Image.open(io.BytesIO(content), formats=list(PICTURES)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ValidationError("The picture is too large: 50 million points at most.", code="too_large")
            image.load()
            return PICTURES[str(image.format)]
    except UnidentifiedImageError:
        return ""
    except Image.DecompressionBombError as error:
        raise ValidationError("The picture is too large: 50 million points at most.", code="too_large") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValidationError("The picture is damaged.", code="damaged") from error
