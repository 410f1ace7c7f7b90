"""Pictures of people: whatever comes in, a small square WebP without its metadata is what is kept."""

import io

from PIL import Image, ImageOps, UnidentifiedImageError

#: Pixels of a side; bytes and pixels that a picture may have when it comes.
SIZE = 256
MOST_BYTES = 10 * 2**20
MOST_PIXELS = 50_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


class Unusable(Exception):
    """The picture can't be taken; the text says why."""


def avatar(content: bytes) -> bytes:
    """The middle of a picture. Raises `Unusable`."""
    if len(content) > MOST_BYTES:
        raise Unusable(f"The picture is larger than {MOST_BYTES // 2**20} MB.")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            # What a file says of its size comes first, before its pixels fill the memory.
            if image.width * image.height > MOST_PIXELS:
                raise Unusable("The picture has too many pixels.")
            upright = ImageOps.exif_transpose(image).convert("RGB")
        square = ImageOps.fit(upright, (SIZE, SIZE))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise Unusable(f"This is no picture in one of {', '.join(FORMATS)}.") from None
    kept = io.BytesIO()
    square.save(kept, "WEBP", quality=85)
    return kept.getvalue()
