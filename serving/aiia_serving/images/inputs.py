"""Images that callers send: decoded within bounds, or refused with the reason."""

import base64
import binascii
import io
import struct
import warnings
from typing import TYPE_CHECKING

from aiia_serving.images.problem import ImageProblem

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 20_000_000
MAX_PIXELS = 32_000_000
MAX_SIDE = 16_384
FORMATS = ("PNG", "JPEG", "WEBP")


def image(encoded: str, param: str) -> "Image":
    """The picture, upright, as RGB or, where some of it is transparent, RGBA. Raises ImageProblem.

    ``encoded`` is base64 of a PNG, JPEG or WebP, also as a data URL.
    """
    data = _bytes(encoded, param)
    _no_other_file(data, param)
    return _upright(_decoded(data, param))


def mask(encoded: str, size: tuple[int, int], param: str) -> "Image":
    """The mask in greys, white where the image is painted anew; of ``size`` (width, height). Raises ImageProblem.

    A mask with transparent parts means these, as OpenAI's do.
    """
    picture = image(encoded, param)
    if picture.size != size:
        raise ImageProblem(
            f"The mask has {_size(picture.size)} pixels, the image {_size(size)}; they must be of the same size.",
            code="mask_size",
            param=param,
        )
    return transparency(picture) if picture.mode == "RGBA" else picture.convert("L")


def transparency(picture: "Image") -> "Image":
    """The mask of an RGBA picture's transparent parts: white where nothing is to be seen."""
    from PIL import ImageOps

    return ImageOps.invert(picture.getchannel("A"))


def _bytes(encoded: str, param: str) -> bytes:
    if encoded.startswith("data:"):
        encoded = encoded.partition(",")[2]
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ImageProblem("This is not base64.", code="invalid_image", param=param) from None
    if len(data) > MAX_BYTES:
        raise ImageProblem(
            f"The image has {len(data) / 1e6:.0f} MB; at most {MAX_BYTES / 1e6:.0f} are taken.",
            code="image_too_large",
            param=param,
        )
    return data


def _decoded(data: bytes, param: str) -> "Image":
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Ours is the bound on pixels.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = picture.size
            if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
                raise _too_many_pixels(param)
            if getattr(picture, "n_frames", 1) > 1:
                raise ImageProblem("The image moves; send a single picture.", code="invalid_image", param=param)
            picture.load()
    except ImageProblem:
        raise
    except Image.DecompressionBombError:
        raise _too_many_pixels(param) from None
    except Exception as error:
        # Whatever a decoder trips over in hostile bytes.
        raise ImageProblem(
            "The image can't be read: it is damaged, or no PNG, JPEG or WebP.", code="invalid_image", param=param
        ) from error
    return picture


def _too_many_pixels(param: str) -> ImageProblem:
    return ImageProblem(
        f"The image has too many pixels; at most {MAX_PIXELS / 1e6:.0f} million are taken, {MAX_SIDE} a side.",
        code="image_too_large",
        param=param,
    )


def _upright(picture: "Image") -> "Image":
    from PIL import Image, ImageOps

    turned = ImageOps.exif_transpose(picture)
    if turned.mode.startswith("I"):
        # 16 bits of grey: Pillow cuts off instead of scaling.
        turned = turned.convert("I").point(lambda value: value / 257).convert("L")
    if not turned.has_transparency_data:
        return turned.convert("RGB")
    shown = turned.convert("RGBA")
    if shown.getchannel("A").getextrema() == (255, 255):
        return shown.convert("RGB")
    ground = Image.new("RGBA", shown.size, "white")
    ground.alpha_composite(shown)
    ground.putalpha(shown.getchannel("A"))
    return ground


def _no_other_file(data: bytes, param: str) -> None:
    end = _end(data)
    if end is not None and data[end:].strip(b"\0\r\n "):
        raise ImageProblem(
            "After the end of the image more data follows, as when another file hides in it. Save it again as a PNG.",
            code="invalid_image",
            param=param,
        )


def _end(data: bytes) -> int | None:
    """Where the image's own bytes end; None where its format has no such place or it is torn."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_end(data)
    if data.startswith(b"RIFF") and len(data) >= 12:
        return 8 + int(struct.unpack("<I", data[4:8])[0])
    if data.startswith(b"\xff\xd8"):
        return _jpeg_end(data)
    return None


def _png_end(data: bytes) -> int | None:
    at = 8
    while at + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        at += 12 + length
        if kind == b"IEND":
            return int(at)
    return None


def _jpeg_end(data: bytes) -> int | None:
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker == 0xD9:
            return at + 2
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:
            at += 2
        else:
            at += 2 + int(struct.unpack(">H", data[at + 2 : at + 4])[0])
            if marker == 0xDA:
                at = _after_scan(data, at)
    return at + 2 if data[at : at + 2] == b"\xff\xd9" else None


def _after_scan(data: bytes, at: int) -> int:
    """The next marker after entropy-coded data, in which 0xFF is followed by zero or a restart marker."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            return len(data)
        if data[at + 1] != 0 and not 0xD0 <= data[at + 1] <= 0xD7:
            return at
        at += 2


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
