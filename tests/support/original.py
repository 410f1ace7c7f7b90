"""Pipelines of random weights as the one file that they would have been published in, with the originals' names."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
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
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
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


#: The second text encoder of SDXL, as OpenCLIP names it.
_OPEN_CLIP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "text_model.encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
#: Parts of FLUX's transformer; of those that were one matrix the pieces, in order.
_FLUX = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "proj_out": "final_layer.linear",
}
_FLUX_DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.to_q attn.to_k attn.to_v": "img_attn.qkv",
    "attn.add_q_proj attn.add_k_proj attn.add_v_proj": "txt_attn.qkv",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
_FLUX_SINGLE = {
    "norm.linear": "modulation.lin",
    "attn.to_q attn.to_k attn.to_v proj_mlp": "linear1",
    "proj_out": "linear2",
}
_FLUX_NORMS = {
    "transformer_blocks.0.attn.norm_q": "double_blocks.0.img_attn.norm.query_norm",
    "transformer_blocks.0.attn.norm_k": "double_blocks.0.img_attn.norm.key_norm",
    "transformer_blocks.0.attn.norm_added_q": "double_blocks.0.txt_attn.norm.query_norm",
    "transformer_blocks.0.attn.norm_added_k": "double_blocks.0.txt_attn.norm.key_norm",
    "single_transformer_blocks.0.attn.norm_q": "single_blocks.0.norm.query_norm",
    "single_transformer_blocks.0.attn.norm_k": "single_blocks.0.norm.key_norm",
}

Weights = dict[str, torch.Tensor]


def single_file(folder: Path, path: Path) -> Path:
    """Writes the weights of the tiny sd15 or sdxl pipeline in ``folder`` as one file."""
    unet, weights = _of(folder / "unet"), _vae_weights(_of(folder / "vae"), "first_stage_model")
    weights |= {f"model.diffusion_model.{_unet_name(name)}": one for name, one in unet.items()}
    pair = (folder / "text_encoder_2").is_dir()
    prefix = "conditioner.embedders.0.transformer" if pair else "cond_stage_model.transformer"
    weights |= {f"{prefix}.{name}": one for name, one in _clip_weights(folder / "text_encoder").items()}
    if pair:
        second = _open_clip_weights(_clip_weights(folder / "text_encoder_2"))
        weights |= {f"conditioner.embedders.1.model.{name}": one for name, one in second.items()}
    return _saved(weights, path)


def flux_file(transformer: Mapping[str, torch.Tensor], path: Path, folder: Path | None = None) -> Path:
    """Writes FLUX's transformer, one block of each kind, as one file: with ``folder`` also the other parts in it."""
    weights = {f"model.diffusion_model.{name}": one for name, one in _flux_weights(transformer).items()}
    if folder is not None:
        weights |= _vae_weights(_of(folder / "vae"), "vae")
        clip, t5 = _clip_weights(folder / "text_encoder"), _of(folder / "text_encoder_2")
        weights |= {f"text_encoders.clip_l.transformer.{name}": one for name, one in clip.items()}
        weights |= {f"text_encoders.t5xxl.transformer.{name}": one for name, one in t5.items()}
    return _saved(weights, path)


def _saved(weights: Weights, path: Path) -> Path:
    save_file({name: one.contiguous() for name, one in weights.items()}, path)
    return path


def _vae_weights(found: Weights, prefix: str) -> Weights:
    return {f"{prefix}.{_vae_name(name)}": _convolution(name, one) for name, one in found.items()}


def _clip_weights(folder: Path) -> Weights:
    found = _of(folder)
    bare = not any(name.startswith("text_model.") for name in found)
    return {f"text_model.{name}" if bare and name != "text_projection.weight" else name: one
            for name, one in found.items()}  # fmt: skip


def _open_clip_weights(found: Weights) -> Weights:
    made: Weights = {"text_projection": found.pop("text_projection.weight").T}
    for name, one in found.items():
        if "self_attn" in name and "out_proj" not in name:
            continue
        for part, original in _OPEN_CLIP.items():
            name = name.replace(part, original)
        made[name] = one
    layers = {name.rpartition(".self_attn.q_proj")[0] for name in found if name.endswith("self_attn.q_proj.weight")}
    for layer in layers:
        number = layer.rpartition(".")[2]
        for kind in ("weight", "bias"):
            three = [found[f"{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            made[f"transformer.resblocks.{number}.attn.in_proj_{kind}"] = torch.cat(three)
    return made


def _flux_weights(found: Mapping[str, torch.Tensor]) -> Weights:
    parts = {**_FLUX}
    parts |= {" ".join(f"transformer_blocks.0.{part}" for part in pieces.split()): f"double_blocks.0.{original}"
              for pieces, original in _FLUX_DOUBLE.items()}  # fmt: skip
    parts |= {" ".join(f"single_transformer_blocks.0.{part}" for part in pieces.split()): f"single_blocks.0.{original}"
              for pieces, original in _FLUX_SINGLE.items()}  # fmt: skip
    made = {f"{original}.{kind}": torch.cat([found[f"{piece}.{kind}"] for piece in pieces.split()])
            for pieces, original in parts.items() for kind in ("weight", "bias")}  # fmt: skip
    made |= {f"{original}.scale": found[f"{part}.weight"] for part, original in _FLUX_NORMS.items()}
    for kind in ("weight", "bias"):
        # Diffusers has scale and shift in the other order.
        scale, shift = found[f"norm_out.linear.{kind}"].chunk(2)
        made[f"final_layer.adaLN_modulation.1.{kind}"] = torch.cat([shift, scale])
    return made


def _of(folder: Path) -> Weights:
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
