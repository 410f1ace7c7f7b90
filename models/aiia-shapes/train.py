"""Trains the pipeline from nothing on one core: python train.py --out FOLDER [--minutes-vae 12] [--minutes 40]

First the VAE on pictures alone, then the UNet together with the text encoder on their latents. Time is given, not
steps, so that the learning rate comes to its end wherever this runs. What --out holds is a whole diffusers pipeline at
any time after the VAE, refreshed every other minute; started again, this goes on from it.
"""

import argparse
import copy
import json
import math
import time
from pathlib import Path
from random import Random

import numpy as np
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from shapes import COLOURS, PLACES, SHAPES, SIZE, Scene, draw, scenes
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

BATCH = 16
FAR_FROM_DONE = 3e-2  # of the peak learning rate, at the very end


def tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer in which every word of the prompts is one token; other words are spelt in letters."""
    words = ["a", "an", "in", "the", "on", "background", *COLOURS, *SHAPES, *" ".join(PLACES).split()]
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    letters += [chr(code) for code in (*range(0xA1, 0xAD), *range(0xAE, 0x144))]
    tokens = letters + [letter + "</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in dict.fromkeys(words):
        built = word[0]
        for index, letter in enumerate(word[1:], start=2):
            pair = (built, letter + "</w>" if index == len(word) else letter)
            built = "".join(pair)
            if pair not in merges:
                merges.append(pair)
                tokens.append(built)
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return CLIPTokenizer.from_pretrained(str(folder), model_max_length=77)


def new_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )


def new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        # Words are heard at 8 x 8 only: attention at 16 x 16 would double the time of a step.
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(40, 64, 64),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def new_text_encoder(vocabulary: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=64,
            max_position_embeddings=77,
            bos_token_id=vocabulary.bos_token_id,
            eos_token_id=vocabulary.eos_token_id,
            pad_token_id=vocabulary.pad_token_id,
        )
    )


def new_scheduler() -> DPMSolverMultistepScheduler:
    # Linear betas end in noise alone: the background's colour is no longer to be read from the start.
    return DPMSolverMultistepScheduler(
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=2e-2,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
    )


def pixels(pictures: list) -> Tensor:
    """(n, 3, 128, 128) from -1 to 1."""
    return torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2).float() / 127.5 - 1


class Clock:
    """The share of the time that is gone, and the learning rate that goes with it."""

    def __init__(self, minutes: float, peak: float) -> None:
        self.start, self.seconds, self.peak = time.monotonic(), minutes * 60, peak

    @property
    def share(self) -> float:
        return (time.monotonic() - self.start) / self.seconds

    def rate(self, step: int) -> float:
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, self.share)))
        return self.peak * min(1.0, (step + 1) / 100) * (FAR_FROM_DONE + (1 - FAR_FROM_DONE) * fall)


class Muon(torch.optim.Optimizer):
    """Steps whose matrix is orthogonal (Jordan et al. 2024): far fewer of them are needed than with AdamW alone."""

    def __init__(self, parameters: list[torch.nn.Parameter], momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": 0.0, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient = parameter.grad.flatten(1)
                mean = self.state[parameter].setdefault("mean", torch.zeros_like(gradient))
                mean.lerp_(gradient, 1 - group["momentum"])
                move = _orthogonal(gradient.lerp(mean, group["momentum"]))
                size = max(1.0, move.shape[0] / move.shape[1]) ** 0.5
                parameter.add_(move.view_as(parameter), alpha=-group["lr"] * size)


def _orthogonal(matrix: Tensor) -> Tensor:
    """The nearest orthogonal matrix, roughly, by five Newton-Schulz steps."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x if wide else x.T


def train_vae(minutes: float, seen: list[Scene], random: Random) -> AutoencoderKL:
    vae = new_vae()
    optimiser = torch.optim.AdamW(vae.parameters(), weight_decay=1e-4)
    pool = pixels([draw(random.choice(seen), random) for _ in range(1500)])
    clock, step, last = Clock(minutes, 3e-3), 0, time.monotonic()
    while clock.share < 1:
        # Quarters of pictures first: the same edges and colours at a quarter of the work.
        whole = clock.share > 0.8
        batch = pool[torch.randint(0, len(pool), (8 if whole else 16,))]
        if not whole:
            top, left = random.randrange(65), random.randrange(65)
            batch = batch[:, :, top : top + 64, left : left + 64]
        latent = vae.encode(batch).latent_dist
        again = vae.decode(latent.sample()).sample
        difference = (again - batch).abs()
        # Half of the weight goes to the edges, which are few pixels.
        loss = difference.mean() + (difference**2).mean() * 2 + 1e-6 * latent.kl().mean()
        for group in optimiser.param_groups:
            group["lr"] = clock.rate(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        step += 1
        if time.monotonic() - last > 20:
            last = time.monotonic()
            print(
                f"vae {clock.share:.2f} step {step} l1 {difference.mean():.4f} std {latent.mean.std():.3f}", flush=True
            )
    return vae.eval()


@torch.no_grad()
def latents(vae: AutoencoderKL, pictures: list) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each picture's latents: (n, 4, 16, 16) each."""
    parts = [vae.encode(pixels(pictures[i : i + 16])).latent_dist for i in range(0, len(pictures), 16)]
    return torch.cat([p.mean for p in parts]), torch.cat([p.std for p in parts])


def save(
    folder: Path, vae: AutoencoderKL, unet: UNet2DConditionModel, text: CLIPTextModel, words: CLIPTokenizer
) -> None:
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=words,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)


def train(out: Path, minutes_vae: float, minutes: float, pictures: int) -> None:
    torch.manual_seed(0)
    random = Random(0)
    again = (out / "unet" / "config.json").exists()
    # First the shapes; further runs clean the ground and its colour.
    peak, extra, middle = (1e-3, 1, 0.5) if again else (1.5e-3, 3, 0.7)
    seen = [scene for scene in scenes() if not scene.unseen]
    words = tokenizer(out / "tokenizer")
    if (out / "vae" / "config.json").exists():
        vae = AutoencoderKL.from_pretrained(out / "vae").eval()
    else:
        vae = train_vae(minutes_vae, seen, random)
        vae.save_pretrained(out / "vae")

    chosen = [random.choice(seen) for _ in range(pictures)]
    mean, std = latents(vae, [draw(scene, random) for scene in chosen])
    if not again:
        vae.register_to_config(scaling_factor=1 / mean.std().item())
    scale = vae.config.scaling_factor
    # Most of a picture is plain ground; the shape and its rim count for more.
    ground = mean.flatten(2).median(dim=2).values[:, :, None, None]
    weight = 1 + extra * ((mean - ground).norm(dim=1, keepdim=True) * scale > 0.8)
    print(f"shapes cover {(weight > 1).float().mean():.2f} of the latents", flush=True)
    print(f"{pictures} pictures, latents scaled by {scale:.4f}", flush=True)
    ids = words([s.prompt for s in chosen] + [""], padding="max_length", return_tensors="pt").input_ids

    if again:
        unet = UNet2DConditionModel.from_pretrained(out / "unet").train()
        text = CLIPTextModel.from_pretrained(out / "text_encoder").train()
    else:
        unet, text = new_unet(), new_text_encoder(words)
    print(
        {n: sum(p.numel() for p in m.parameters()) for n, m in (("vae", vae), ("unet", unet), ("text", text))},
        flush=True,
    )
    unet.to(memory_format=torch.channels_last)
    noise_levels = new_scheduler()
    kept = [p for module in (unet, text) for p in module.parameters()]
    average = copy.deepcopy((unet, text))
    average_of = [p for module in average for p in module.parameters()]
    # The first and last layers, embeddings, norms and biases are AdamW's.
    outer = ("conv_in", "conv_out", "embedding")
    inner = [
        parameter
        for module in (unet, text)
        for name, parameter in module.named_parameters()
        if parameter.ndim > 1 and not any(part in name for part in outer)
    ]
    chosen_ids = {id(parameter) for parameter in inner}
    adam = torch.optim.AdamW([p for p in kept if id(p) not in chosen_ids], weight_decay=1e-3)
    muon = Muon(inner)
    clock, step, last, saved, losses = Clock(minutes, peak), 0, time.monotonic(), time.monotonic(), []
    while clock.share < 1:
        picked = torch.randint(0, pictures, (BATCH,))
        clean = (mean[picked] + std[picked] * torch.randn(BATCH, 4, 16, 16)) * scale
        noise = torch.randn_like(clean)
        # Shapes are decided between; above is hardly more than noise.
        at = torch.where(torch.rand(BATCH) < middle, torch.randint(50, 650, (BATCH,)), torch.randint(0, 1000, (BATCH,)))
        noisy = noise_levels.add_noise(clean, noise, at)
        alpha = noise_levels.alphas_cumprod[at].view(-1, 1, 1, 1)
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        # Every tenth prompt is left empty: what guidance moves away from.
        told = torch.where(torch.rand(BATCH) < 0.1, pictures, picked)
        guess = unet(noisy, at, text(ids[told]).last_hidden_state).sample
        loss = (functional.mse_loss(guess, target, reduction="none") * weight[picked]).mean()
        for optimiser, factor in ((adam, 1.0), (muon, 2.0)):
            optimiser.param_groups[0]["lr"] = clock.rate(step) * factor
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(kept, 1.0)
        adam.step()
        muon.step()
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(average_of, kept, max(0.008, 1 / (step + 1)))
        losses.append(loss.item())
        if time.monotonic() - last > 20:
            last = time.monotonic()
            print(f"unet {clock.share:.2f} step {step} loss {np.mean(losses[-100:]):.4f}", flush=True)
        if time.monotonic() - saved > 120:
            saved = time.monotonic()
            save(out, vae, average[0], average[1], words)
    save(out, vae, average[0], average[1], words)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--minutes-vae", type=float, default=12)
    options.add_argument("--minutes", type=float, default=40)
    options.add_argument("--pictures", type=int, default=8192)
    given = options.parse_args()
    train(given.out, given.minutes_vae, given.minutes, given.pictures)
