"""Pictures as callers send them."""

import base64
import io
from typing import Any

from PIL import Image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> str:
    """Base64 of the image as a file."""
    return base64.b64encode(file(image, kind, **options)).decode()


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scene(width: int = 40, height: int = 36) -> Image.Image:
    """Something with edges and colours."""
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    image.paste((200, 30, 90), (width // 4, height // 4, width // 2, height // 2))
    return image


def hole(width: int = 40, height: int = 36) -> Image.Image:
    """A mask with a white rectangle."""
    mask = Image.new("L", (width, height))
    mask.paste(255, (4, 4, width // 2, height // 2))
    return mask
