"""What an image will look like, from its latents alone: a linear projection, hundreds of times cheaper than the VAE."""

import base64
import io
from typing import TYPE_CHECKING, Any

from aiia_serving.images.model import Model

if TYPE_CHECKING:
    from PIL.Image import Image

# The side of a preview in pixels.
SIDE = 256
_QUALITY = 75
_SAMPLES = 24


def projection(model: Model) -> "Projection | None":
    """The model's own; None where its latents are no plain image of channels, as other autoencoders have them."""
    from diffusers import AutoencoderKL

    return Projection(model) if isinstance(model.components.get("vae"), AutoencoderKL) else None


class Projection:
    """Each latent's channels to red, green and blue; fitted to the model's own VAE, so that any VAE will do."""

    def __init__(self, model: Model) -> None:
        """Encodes a few smooth pictures. Computes, so it belongs to the thread that has the device."""
        import torch

        vae = model.components["vae"]
        pictures = _pictures(16 * model.latent_scale)
        weight = next(vae.parameters())
        with torch.no_grad():
            latents = [
                vae.encode(picture[None].to(device=weight.device, dtype=weight.dtype)).latent_dist.mean
                for picture in pictures
            ]
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        scaled = (torch.cat(latents).float().cpu() - shift) * vae.config.scaling_factor
        small = torch.nn.functional.avg_pool2d(pictures, pictures.shape[-1] // scaled.shape[-1])
        inputs = scaled.permute(0, 2, 3, 1).reshape(-1, scaled.shape[1])
        ones = torch.ones(len(inputs), 1)
        wanted = small.permute(0, 2, 3, 1).reshape(-1, 3)
        self._matrix = torch.linalg.lstsq(torch.cat([inputs, ones], 1), wanted).solution

    def images(self, latents: Any) -> list["Image"]:
        """Small pictures of latents with the dimensions (image, channel, row, column), as the steps leave them."""
        import torch
        from PIL import Image

        found = latents.detach().float().cpu()
        # Early ones of some schedulers are noise many times stronger than the image.
        found = found / found.std(dim=(1, 2, 3), keepdim=True).clamp(min=1.0)
        rgb = torch.einsum("bchw,cr->bhwr", found, self._matrix[:-1]) + self._matrix[-1]
        pixels = ((rgb.clamp(-1, 1) + 1) * 127.5).nan_to_num().round().to(torch.uint8).numpy()
        return [_shown(Image.fromarray(one)) for one in pixels]


def _shown(image: "Image") -> "Image":
    from PIL import Image

    width, height = (max(1, SIDE * side // max(image.size)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def unpacked(pipe: Any, latents: Any, width: int, height: int) -> Any:
    """Latents with rows and columns; FLUX has them in one sequence of patches. ``width`` and ``height`` in pixels."""
    if latents.dim() == 4:
        return latents
    return pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)


def encoded(image: "Image") -> str:
    """Base64 of a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()


def _pictures(side: int) -> Any:
    """Smooth fields of colour, -1 to 1, always the same: (picture, 3, side, side)."""
    import torch

    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(_SAMPLES, 3, 4, 4, generator=generator) * 2 - 1
    # Whole colours as well, the corners of the cube among them.
    coarse[::3] = coarse[::3, :, :1, :1]
    coarse[::6] = coarse[::6].sign()
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=True)
