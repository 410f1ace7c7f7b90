"""Puts a trained pipeline beside this file, in half precision: python pack.py FOLDER."""

import argparse
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    StableDiffusionPipeline.from_pretrained(options.parse_args().folder).to(torch.float16).save_pretrained(
        Path(__file__).parent
    )
