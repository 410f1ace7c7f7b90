"""Images in the format that the caller asked for."""

import base64
import binascii
import io

_QUALITY = {"jpeg": 95, "webp": 90}


def size_of(image: str) -> tuple[int, int]:
    """Width and height of ``image`` (base64 of PNG). Raises ``ValueError`` when the replica sent no image."""
    from PIL import Image

    # Its header is all that is read.
    with Image.open(io.BytesIO(base64.b64decode(image[:4096])), formats=("PNG",)) as picture:
        return picture.size


def encoded(image: str, kind: str, compression: int | None) -> str:
    """Base64 of ``image`` (base64 of PNG or JPEG) as png, jpeg or webp. ``compression`` is OpenAI's: 0 to 100, 100 the
    best. Raises ``ValueError`` when the replica sent no image. Takes a while; not for the event loop."""
    try:
        data = base64.b64decode(image, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if kind == "png" and data.startswith(b"\x89PNG\r\n\x1a\n"):
        return image
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
        out = io.BytesIO()
        options = {} if kind == "png" else {"quality": _QUALITY[kind] if compression is None else compression}
        picture.convert("RGB").save(out, kind.upper(), **options)
    return base64.b64encode(out.getvalue()).decode()
