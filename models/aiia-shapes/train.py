"""Trains the pipeline from nothing on one core: python train.py --out FOLDER [--minutes-vae 12] [--minutes 40]

First the VAE on pictures alone; then the text encoder, which learns to say at a sentence's end what it names; then the
UNet on the latents of the one and the sentences of the other. For the VAE and the UNet time is given, not steps, so
that the learning rate comes to its end wherever this runs. What --out holds is a whole diffusers pipeline once the UNet
has begun, refreshed every other minute; started again, this goes on from it.
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
from shapes import COLOURS, PLACES, SHAPES, SIZE, Scene, draw, scenes, seen
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
    # Long words first: the merges of a short one within ("to" of "top" in "bottom") would break them.
    for word in sorted(dict.fromkeys(words), key=len, reverse=True):
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
        # The whole sentence scales and shifts every layer beside the noise level: attention alone binds colours and
        # shapes to their words only after many times as many pictures.
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        resnet_time_scale_shift="scale_shift",
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


def train_vae(minutes: float, known: list[Scene], random: Random) -> AutoencoderKL:
    vae = new_vae()
    optimiser = torch.optim.AdamW(vae.parameters(), weight_decay=1e-4)
    pool = pixels([draw(random.choice(known), random) for _ in range(1500)])
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


class Heard(torch.nn.Module):
    """What the text encoder's output says of a scene: a linear reading of it, for training alone."""

    PARTS = {"colour": tuple(COLOURS), "shape": SHAPES, "place": tuple(PLACES), "ground": tuple(COLOURS)}

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read = torch.nn.Linear(width, sum(len(names) for names in self.PARTS.values()))

    def forward(self, hidden: Tensor, scenes: list[Scene]) -> tuple[Tensor, Tensor]:
        """The loss, and which of the sentences are understood whole: (n,) of bool; from (n, places, width)."""
        parts = self.read(hidden).split([len(names) for names in self.PARTS.values()], dim=-1)
        loss, whole = torch.zeros(()), torch.ones(len(scenes), dtype=torch.bool)
        for (name, names), part in zip(self.PARTS.items(), parts, strict=True):
            told = torch.tensor([names.index(getattr(seen(scene), name)) for scene in scenes])
            places = told[:, None].expand(-1, hidden.shape[1])
            loss = loss + functional.cross_entropy(part.flatten(0, 1), places.flatten())
            whole &= (part.argmax(-1) == places).all(dim=1)
        return loss, whole


def train_text(words: CLIPTokenizer, known: list[Scene], unknown: list[Scene], steps: int = 2000) -> CLIPTextModel:
    """A text encoder that says at the sentence's end, and in all the padding behind it, what the sentence names."""
    text = new_text_encoder(words)
    heard = Heard(text.config.hidden_size)
    optimiser = torch.optim.AdamW([*text.parameters(), *heard.parameters()], weight_decay=1e-2)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, steps)

    def hidden(scenes: list[Scene]) -> Tensor:
        ids = words([s.prompt for s in scenes], padding="max_length", max_length=24, return_tensors="pt").input_ids
        # The longest sentence ends there.
        return text(ids).last_hidden_state[:, 12:]

    for _ in range(steps):
        some = [known[at] for at in torch.randint(0, len(known), (32,))]
        loss, _ = heard(hidden(some), some)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        rates.step()
    with torch.no_grad():
        _, whole = heard(hidden(unknown), unknown)
    print(f"text loss {loss:.4f}, understands {whole.sum()} of {len(unknown)} unseen sentences", flush=True)
    return text.eval()


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
    known = [scene for scene in scenes() if not scene.unseen]
    unknown = [scene for scene in scenes() if scene.unseen]
    words = tokenizer(out / "tokenizer")
    if (out / "vae" / "config.json").exists():
        vae = AutoencoderKL.from_pretrained(out / "vae").float().eval()
    else:
        vae = train_vae(minutes_vae, known, random)
        vae.save_pretrained(out / "vae")
    if (out / "text_encoder" / "config.json").exists():
        text = CLIPTextModel.from_pretrained(out / "text_encoder").float().eval()
    else:
        text = train_text(words, known, unknown)
        text.save_pretrained(out / "text_encoder")

    chosen = [random.choice(known) for _ in range(pictures)]
    mean, std = latents(vae, [draw(scene, random) for scene in chosen])
    if not (out / "unet" / "config.json").exists():
        unet = new_unet()
        vae.register_to_config(scaling_factor=1 / mean.std().item())
    else:
        unet = UNet2DConditionModel.from_pretrained(out / "unet").float().train()
    scale = vae.config.scaling_factor
    # Most of a picture is plain ground; the shape and its rim count for more.
    ground = mean.flatten(2).median(dim=2).values[:, :, None, None]
    weight = 1 + 2 * ((mean - ground).norm(dim=1, keepdim=True) * scale > 0.8)
    print(f"{pictures} pictures, latents scaled by {scale:.4f}", flush=True)
    # The text encoder is finished: each sentence is encoded once.
    prompts = {prompt: at for at, prompt in enumerate(["", *(scene.prompt for scene in known)])}
    ids = words(list(prompts), padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        sentences = torch.cat([text(part).last_hidden_state for part in ids.split(64)])
    sentence = torch.tensor([prompts[scene.prompt] for scene in chosen])

    count = {n: sum(p.numel() for p in m.parameters()) for n, m in (("vae", vae), ("unet", unet), ("text", text))}
    print(count, flush=True)
    unet.to(memory_format=torch.channels_last)
    noise_levels = new_scheduler()
    average = copy.deepcopy(unet)
    optimiser = torch.optim.AdamW(unet.parameters(), betas=(0.9, 0.99), weight_decay=1e-3)
    clock, step, last, saved, losses = Clock(minutes, 1.5e-3), 0, time.monotonic(), time.monotonic(), []
    while clock.share < 1:
        picked = torch.randint(0, pictures, (BATCH,))
        clean = (mean[picked] + std[picked] * torch.randn(BATCH, 4, 16, 16)) * scale
        noise = torch.randn_like(clean)
        # Wide plain areas are to be seen through much noise: what stands where in which colour is decided early.
        at = torch.where(torch.rand(BATCH) < 0.7, torch.randint(350, 950, (BATCH,)), torch.randint(0, 1000, (BATCH,)))
        # Not by the scheduler's add_noise: before its steps are set, this one gives step t the noise of step 999 - t.
        alpha = noise_levels.alphas_cumprod[at].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        # Every tenth prompt is left empty: what guidance moves away from.
        told = torch.where(torch.rand(BATCH) < 0.1, 0, sentence[picked])
        guess = unet(noisy, at, sentences[told]).sample
        loss = (functional.mse_loss(guess, target, reduction="none") * weight[picked]).mean()
        optimiser.param_groups[0]["lr"] = clock.rate(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimiser.step()
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(unet.parameters()), max(0.005, 1 / (step + 1)))
        losses.append(loss.item())
        if time.monotonic() - last > 20:
            last = time.monotonic()
            print(f"unet {clock.share:.2f} step {step} loss {np.mean(losses[-200:]):.4f}", flush=True)
        if time.monotonic() - saved > 120:
            saved = time.monotonic()
            save(out, vae, average, text, words)
    save(out, vae, average, text, words)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--minutes-vae", type=float, default=12)
    options.add_argument("--minutes", type=float, default=40)
    options.add_argument("--pictures", type=int, default=8192)
    given = options.parse_args()
    train(given.out, given.minutes_vae, given.minutes, given.pictures)
