"""Draws prompts that training never saw and tells by pixels alone how many came out right: python check.py [FOLDER]"""

import argparse
import time
from pathlib import Path
from random import Random

import torch
from diffusers import StableDiffusionPipeline
from shapes import SIZE, Scene, look, scenes, shows


def unseen(count: int) -> list[Scene]:
    """That many unseen prompts, the same ones always."""
    return Random(1).sample([scene for scene in scenes() if scene.unseen], count)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent)
    options.add_argument("--count", type=int, default=100)
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--guidance", type=float, default=2.0)
    given = options.parse_args()
    pipeline = StableDiffusionPipeline.from_pretrained(given.folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    wrong, started = 0, time.monotonic()
    for seed, scene in enumerate(unseen(given.count)):
        picture = pipeline(
            scene.prompt,
            num_inference_steps=given.steps,
            guidance_scale=given.guidance,
            height=SIZE,
            width=SIZE,
            generator=torch.Generator().manual_seed(seed),
        ).images[0]
        if not shows(picture, scene):
            wrong += 1
            print(f"{scene.prompt} (seed {seed}): {look(picture)}")
    seconds = time.monotonic() - started
    print(f"{given.count - wrong} of {given.count} right, {seconds / given.count:.2f} s per picture")


if __name__ == "__main__":
    main()
