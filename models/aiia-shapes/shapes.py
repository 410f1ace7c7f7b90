"""The world that aiia-shapes draws: what can be said in a prompt, pictures of it, and a check of pixels.

A scene is one plain shape of one colour at one place on a background of another colour, 128 x 128 pixels.
"""

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from itertools import product
from math import cos, pi, sin
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SIZE = 128

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (250, 220, 50),
    "orange": (250, 140, 30),
    "purple": (130, 50, 170),
    "white": (250, 250, 250),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")
# The centres of the places, in pixels from the top left corner: x, y.
PLACES = {
    "middle": (64, 64),
    "top left": (40, 40),
    "top right": (88, 40),
    "bottom left": (40, 88),
    "bottom right": (88, 88),
}


@dataclass(frozen=True)
class Scene:
    """What a prompt names. Without a place the shape is in the middle, without a background it is on white (a white
    one on black)."""

    colour: str
    shape: str
    place: str | None
    background: str | None

    @property
    def prompt(self) -> str:
        words = f"{'an' if self.colour == 'orange' else 'a'} {self.colour} {self.shape}"
        if self.place:
            words += f" in the {self.place}"
        if self.background:
            words += f" on {'an' if self.background == 'orange' else 'a'} {self.background} background"
        return words

    @property
    def ground(self) -> str:
        return self.background or ("black" if self.colour == "white" else "white")

    @property
    def unseen(self) -> bool:
        """Whether training never sees this prompt: about a fifth of all that name a background, chosen by their hash,
        and the example of the documentation."""
        if self.prompt == "a yellow star on a purple background":
            return True
        return self.background is not None and sha256(self.prompt.encode()).digest()[0] < 51


def scenes() -> list[Scene]:
    """Everything that can be said, in a fixed order."""
    return [
        Scene(colour, shape, place, background)
        for colour, shape, place, background in product(COLOURS, SHAPES, (None, *PLACES), (None, *COLOURS))
        if colour != background
    ]


def _outline(shape: str, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    def around(count: int, first: float, radii: tuple[float, ...]) -> list[tuple[float, float]]:
        angles = (first + 2 * pi * index / count for index in range(count))
        return [
            (x + radii[index % len(radii)] * cos(angle), y + radii[index % len(radii)] * sin(angle))
            for index, angle in enumerate(angles)
        ]

    match shape:
        case "circle":
            return around(64, 0, (radius,))
        case "square":
            return around(4, pi / 4, (radius * 1.2,))
        case "triangle":
            return around(3, -pi / 2, (radius * 1.15,))
        case "star":
            return around(10, -pi / 2, (radius * 1.15, radius * 0.48))
        case "cross":
            arm, half = radius, radius * 0.34
            corners = [(-half, -arm), (half, -arm), (half, -half), (arm, -half), (arm, half), (half, half)]
            corners += [(-a, -b) for a, b in corners]
            return [(x + a, y + b) for a, b in corners]
    raise ValueError(shape)


def draw(scene: Scene, random: Random) -> Image.Image:
    """A picture of the scene: place and size vary a little, as `random` says."""
    centre = PLACES[scene.place or "middle"]
    x, y = (at + random.uniform(-2, 2) for at in centre)
    radius = random.uniform(33, 40) if centre == PLACES["middle"] else random.uniform(23, 27)
    return paint(scene.shape, COLOURS[scene.colour], COLOURS[scene.ground], x, y, radius)


def paint(
    shape: str,
    colour: tuple[int, int, int],
    ground: tuple[int, int, int],
    x: float,
    y: float,
    radius: float,
) -> Image.Image:
    fine = 3
    picture = Image.new("RGB", (SIZE * fine, SIZE * fine), ground)
    outline = [(a * fine, b * fine) for a, b in _outline(shape, x, y, radius)]
    ImageDraw.Draw(picture).polygon(outline, fill=colour)
    return picture.resize((SIZE, SIZE), Image.Resampling.BOX)


def _name(colour: NDArray[np.float64]) -> str:
    return min(COLOURS, key=lambda name: float(np.linalg.norm(colour - COLOURS[name])))


def _stamp(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The shape alone: cut to what it covers and brought to one size."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.asarray(Image.fromarray(cut).resize((48, 48)), dtype=bool)


def _without_specks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.MedianFilter(7)), dtype=bool)


@cache
def _stamps() -> dict[str, NDArray[np.bool_]]:
    black, white = COLOURS["black"], COLOURS["white"]
    return {s: _stamp(np.asarray(paint(s, white, black, 64, 64, 40))[..., 0] > 128) for s in SHAPES}


def look(picture: Image.Image) -> Scene | None:
    """What is to be seen in a picture, told by its pixels alone: None where there is no one shape."""
    pixels = np.asarray(picture.convert("RGB").resize((SIZE, SIZE)), dtype=np.float64)
    edge = np.concatenate([pixels[:4].reshape(-1, 3), pixels[-4:].reshape(-1, 3), pixels[:, :4].reshape(-1, 3)])
    ground = np.median(edge, axis=0)
    raw = np.linalg.norm(pixels - ground, axis=2) > 50
    mask = _without_specks(raw)
    # A ground full of specks is none.
    if not SIZE * SIZE * 0.02 < mask.sum() < SIZE * SIZE * 0.6 or (raw ^ mask).sum() > SIZE * SIZE * 0.05:
        return None
    colour = _name(np.median(pixels[mask], axis=0))
    # Pixels of a third colour (the blurred rim excepted) would show in the shape's own mask.
    mask = _without_specks(
        mask & (np.linalg.norm(pixels - COLOURS[colour], axis=2) < np.linalg.norm(pixels - ground, axis=2))
    )
    if not mask.any():
        return None
    stamp = _stamp(mask)
    shape = max(SHAPES, key=lambda s: (stamp & _stamps()[s]).sum() / (stamp | _stamps()[s]).sum())
    y, x = (float(np.median(at)) for at in np.nonzero(mask))
    place = min(PLACES, key=lambda name: abs(PLACES[name][0] - x) + abs(PLACES[name][1] - y))
    return Scene(colour, shape, place, _name(ground))


def seen(scene: Scene) -> Scene:
    """What ``look`` says of a picture of the scene."""
    return Scene(scene.colour, scene.shape, scene.place or "middle", scene.ground)


def shows(picture: Image.Image, scene: Scene) -> bool:
    """Whether the picture is one of the scene: colour, shape, place and background."""
    return look(picture) == seen(scene)
