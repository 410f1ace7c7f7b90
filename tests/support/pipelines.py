"""Tiny pipelines of each family, real classes with random weights, saved as diffusers saves them."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

WIDTH = 32
# The latents are half the size of the image.
SIZE = 32
FAMILIES = ("sd15", "sdxl", "flux")


def make(family: str, folder: Path, **network: Any) -> Path:
    """Saves a pipeline of the family; ``network`` changes the configuration of its network."""
    pipe = build(family, **network)
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def build(family: str, **network: Any) -> Any:
    """The pipeline that ``make`` saves."""
    torch.manual_seed(0)
    pipe = {"sd15": _sd15, "sdxl": _sdxl, "flux": _flux, "sd3": _sd3, "pixart": _pixart}[family](network)
    # Networks begin with last layers near zero, which would make every prompt the same picture.
    for name in ("unet", "transformer"):
        if hasattr(pipe, name):
            _stir(getattr(pipe, name))
    return pipe


def with_tiny_vae(folder: Path) -> Path:
    """Another kind of autoencoder in the pipeline's folder: its latents are no distribution."""
    torch.manual_seed(4)
    channels = (WIDTH, WIDTH)
    vae = AutoencoderTiny(
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    shutil.rmtree(folder / "vae")
    vae.save_pretrained(folder / "vae", safe_serialization=True)
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "vae": ["diffusers", "AutoencoderTiny"]}))
    return folder


def wide_flux(folder: Path) -> FluxTransformer2DModel:
    """Saves the tiny FLUX without a transformer, and returns one as wide as the original, of one block of each kind.

    Its width is what diffusers' converter of the original's files takes for granted; it has 480 million weights.
    """
    make("flux", folder)
    with torch.device("meta"):
        heads = {"num_attention_heads": 24, "attention_head_dim": 128, "axes_dims_rope": (16, 56, 56)}
        net = FluxTransformer2DModel(**{**_FLUX, **heads}).to(torch.bfloat16)
    net.to_empty(device="cpu")
    # Random numbers for each of them would take a quarter of a minute.
    pattern = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).mul(0.02).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in net.parameters():
            for piece in parameter.view(-1).split(len(pattern)):
                piece.copy_(pattern[: len(piece)])
    for file in (folder / "transformer").glob("*.safetensors"):
        file.unlink()
    net.save_config(folder / "transformer")
    return net


def make_control(family: str, folder: Path) -> Path:
    """Saves a ControlNet for the tiny pipeline of the family."""
    torch.manual_seed(1)
    if family == "flux":
        net: Any = FluxControlNetModel(**{**_FLUX, "num_layers": 1, "num_single_layers": 1})
    else:
        net = ControlNetModel.from_unet(
            _unet(_SDXL if family == "sdxl" else {}), conditioning_embedding_out_channels=(16, 16)
        )
    _stir(net)
    net.save_pretrained(folder, safe_serialization=True)
    return folder


def make_controlled(folder: Path) -> Path:
    """A tiny Stable Diffusion as ``model`` in the folder, with a ``control`` and a ``depth`` model."""
    make("sd15", folder / "model")
    make_control("sd15", folder / "control")
    make_depth(folder / "depth")
    return folder


def make_depth(folder: Path) -> Path:
    """Saves a depth model with random weights."""
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    torch.manual_seed(3)
    config = DPTConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=37, image_size=32, patch_size=16,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[16, 16, 32, 32], fusion_hidden_size=16, is_hybrid=False,
    )  # fmt: skip
    DPTForDepthEstimation(config).save_pretrained(folder, safe_serialization=True)
    DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def make_lora(family: str, path: Path, seed: int = 2, scale: float = 1.0) -> Path:
    """Saves a LoRA for the attention of the family's network, with random weights."""
    from peft import LoraConfig, get_peft_model_state_dict
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    network = FluxTransformer2DModel(**_FLUX) if family == "flux" else _unet(_SDXL if family == "sdxl" else {})
    network.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    prefix = "transformer" if family == "flux" else "unet"
    weights = {f"{prefix}.{name}": tensor * scale for name, tensor in get_peft_model_state_dict(network).items()}
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    return path


def make_control_lora(path: Path, kind: Literal["norms", "wide"]) -> Path:
    """Saves a LoRA for the tiny FLUX as control LoRAs are: one has norms too, one takes twice the input's channels."""
    from safetensors.torch import load_file, save_file

    weights = load_file(make_lora("flux", path))
    if kind == "norms":
        weights["transformer.transformer_blocks.0.attn.norm_q.weight"] = torch.full((16,), 3.0)
    else:
        weights["transformer.x_embedder.lora_A.weight"] = torch.ones(2, 32)
        weights["transformer.x_embedder.lora_B.weight"] = torch.ones(32, 2)
    save_file(weights, path)
    return path


def _stir(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.detach().abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.05)


def _sd15(network: dict[str, Any]) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=_vae(4),
        text_encoder=CLIPTextModel(_clip()),
        tokenizer=clip_tokenizer(),
        unet=_unet(network),
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


_SDXL: dict[str, Any] = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
    "cross_attention_dim": 3 * WIDTH,
    "use_linear_projection": True,
    "transformer_layers_per_block": (1, 1),
}


def _sdxl(network: dict[str, Any]) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(
        vae=_vae(4),
        text_encoder=CLIPTextModel(_clip()),
        # A file of SDXL is told from others by the tenth layer, and the two encoders from each other by their widths.
        text_encoder_2=CLIPTextModelWithProjection(_clip(layers=10, width=2 * WIDTH)),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=_unet({**_SDXL, **network}),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        add_watermarker=False,
    )


_FLUX: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": WIDTH,
    "pooled_projection_dim": WIDTH,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 4, 8),
}


def _flux(network: dict[str, Any]) -> FluxPipeline:
    return FluxPipeline(
        vae=_vae(4, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModel(_clip()),
        tokenizer=clip_tokenizer(),
        text_encoder_2=T5EncoderModel(_t5()),
        tokenizer_2=t5_tokenizer(),
        transformer=FluxTransformer2DModel(**{**_FLUX, **network}),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )


def _sd3(network: dict[str, Any]) -> StableDiffusion3Pipeline:
    """Of no family: any pipeline of diffusers."""
    return StableDiffusion3Pipeline(
        vae=_vae(16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModelWithProjection(_clip()),
        text_encoder_2=CLIPTextModelWithProjection(_clip()),
        text_encoder_3=T5EncoderModel(_t5()),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=t5_tokenizer(),
        transformer=SD3Transformer2DModel(
            **{
                "sample_size": SIZE // 2,
                "patch_size": 1,
                "in_channels": 16,
                "out_channels": 16,
                "num_layers": 1,
                "attention_head_dim": 8,
                "num_attention_heads": 4,
                "caption_projection_dim": 32,
                "joint_attention_dim": 32,
                "pooled_projection_dim": 2 * WIDTH,
                "pos_embed_max_size": 48,
                **network,
            }
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def _pixart(network: dict[str, Any]) -> PixArtSigmaPipeline:
    """Of no family, and older than the callbacks that others have. Draws 256 pixels a side, its smallest size."""
    return PixArtSigmaPipeline(
        vae=_vae(4, block_out_channels=(WIDTH,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
                 up_block_types=("UpDecoderBlock2D",) * 4),
        text_encoder=T5EncoderModel(_t5()),
        tokenizer=t5_tokenizer(),
        transformer=PixArtTransformer2DModel(
            **{
                "sample_size": 32,
                "num_layers": 1,
                "attention_head_dim": 8,
                "num_attention_heads": 4,
                "cross_attention_dim": 32,
                "caption_channels": WIDTH,
                **network,
            }
        ),
        scheduler=DPMSolverMultistepScheduler(),
    )  # fmt: skip


def _t5() -> T5Config:
    return T5Config(
        vocab_size=300, d_model=WIDTH, d_ff=37, d_kv=8, num_layers=2, num_heads=4, relative_attention_num_buckets=8
    )


def _vae(channels: int, **more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        **{
            "block_out_channels": (WIDTH, 2 * WIDTH),
            "in_channels": 3,
            "out_channels": 3,
            "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
            "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
            "latent_channels": channels,
            **more,
        }
    )


def _unet(more: dict[str, Any]) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        **{
            "block_out_channels": (WIDTH, 2 * WIDTH),
            "layers_per_block": 1,
            "sample_size": SIZE // 2,
            "in_channels": 4,
            "out_channels": 4,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": WIDTH,
            "attention_head_dim": 8,
            **more,
        }
    )


def _clip(layers: int = 3, width: int = WIDTH) -> CLIPTextConfig:
    return CLIPTextConfig(
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
        hidden_size=width,
        projection_dim=WIDTH,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=layers,
        vocab_size=514,
    )


def clip_tokenizer() -> CLIPTokenizer:
    """One token per letter."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*letters, *(f"{one}</w>" for one in letters)])}
    vocabulary |= {"<|startoftext|>": 512, "<|endoftext|>": 513}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """One token per letter."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((chr(code), -1.0) for code in range(32, 127))]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
