"""A tiny Stable Diffusion pipeline as the one file that it would have been published in, with the original's names."""

import re
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
# Where the parts of the tiny network, two blocks down and up of one layer each, have been.
_UNET = {
    "conv_in": "input_blocks.0.0",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE = [
    (r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}"),
    (r"mid_block\.attentions\.0\.group_norm", lambda _: "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_out\.0", lambda _: "mid.attn_1.proj_out"),
    (r"mid_block\.attentions\.0\.to_([qkv])", lambda found: f"mid.attn_1.{found[1]}"),
    (r"down_blocks\.(\d)\.resnets\.(\d)", lambda found: f"down.{found[1]}.block.{found[2]}"),
    (r"down_blocks\.(\d)\.downsamplers\.0", lambda found: f"down.{found[1]}.downsample"),
    (r"up_blocks\.(\d)\.resnets\.(\d)", lambda found: f"up.{1 - int(found[1])}.block.{found[2]}"),
    (r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up.{1 - int(found[1])}.upsample"),
    (r"conv_shortcut", lambda _: "nin_shortcut"),
    (r"conv_norm_out", lambda _: "norm_out"),
]


def single_file(folder: Path, path: Path) -> Path:
    """Writes the weights of the tiny sd15 pipeline in ``folder`` as one file."""
    weights = {f"model.diffusion_model.{_unet_name(name)}": one for name, one in _of(folder / "unet").items()}
    weights |= {
        f"first_stage_model.{_vae_name(name)}": _convolution(name, one) for name, one in _of(folder / "vae").items()
    }
    for name, one in _of(folder / "text_encoder").items():
        inner = name if name.startswith("text_model.") else f"text_model.{name}"
        weights[f"cond_stage_model.transformer.{inner}"] = one
    save_file({name: one.contiguous() for name, one in weights.items()}, path)
    return path


def _of(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("*.safetensors")
    return dict(load_file(file))


def _unet_name(name: str) -> str:
    (part,) = [one for one in _UNET if name.startswith(f"{one}.")]
    rest = name.removeprefix(f"{part}.")
    if "resnets" in part:
        inner, _, kind = rest.partition(".")
        rest = f"{_RESNET[inner]}.{kind}"
    return f"{_UNET[part]}.{rest}"


def _vae_name(name: str) -> str:
    for pattern, change in _VAE:
        name = re.sub(pattern, change, name)
    return name


def _convolution(name: str, weight: Any) -> Any:
    """Attention of the original's VAE was made of convolutions over one pixel."""
    is_linear = "mid_block.attentions" in name and name.endswith("weight") and "group_norm" not in name
    return weight[:, :, None, None] if is_linear else weight
