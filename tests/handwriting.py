"""Digits drawn as by hand, on paper of many kinds, and how many of them `predict` reads: figures of the README.

python tests/handwriting.py CHECKPOINT SEED
"""

import csv
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Point = tuple[float, float]  # x and y, downwards
Stroke = list[Point]  # points of a curve, between 0 and 1
SHAPES: dict[str, list[list[Stroke]]] = {  # ways to write each
    "0": [[[(0.55, 0), (0.2, 0.15), (0.1, 0.5), (0.25, 0.95), (0.6, 0.97), (0.88, 0.6), (0.8, 0.15), (0.5, 0)]]],
    "1": [[[(0.5, 0), (0.5, 0.5), (0.48, 1)]], [[(0.28, 0.25), (0.42, 0.12), (0.55, 0)], [(0.55, 0), (0.55, 1)]]],
    "2": [
        [[(0.15, 0.2), (0.4, 0), (0.75, 0.1), (0.75, 0.4), (0.4, 0.75), (0.1, 1)], [(0.1, 1), (0.5, 0.97), (0.9, 1)]],
        [[(0.2, 0.15), (0.5, 0), (0.8, 0.2), (0.6, 0.6), (0.15, 0.95), (0.25, 0.85), (0.5, 0.95), (0.95, 0.95)]],
    ],
    "3": [
        [[(0.15, 0.1), (0.5, 0), (0.8, 0.2), (0.4, 0.47)], [(0.4, 0.47), (0.85, 0.65), (0.7, 0.95), (0.1, 0.95)]],
        [
            [(0.15, 0.05), (0.8, 0.03)],
            [(0.8, 0.03), (0.45, 0.4)],
            [(0.45, 0.4), (0.85, 0.6), (0.65, 0.95), (0.1, 0.9)],
        ],
    ],
    "4": [
        [[(0.35, 0), (0.25, 0.3), (0.1, 0.55)], [(0.1, 0.55), (0.9, 0.52)], [(0.7, 0.1), (0.68, 0.5), (0.65, 1)]],
        [[(0.65, 0), (0.4, 0.35), (0.05, 0.65)], [(0.05, 0.65), (0.95, 0.65)], [(0.65, 0), (0.65, 1)]],
    ],
    "5": [
        [
            [(0.8, 0.02), (0.25, 0.03)],
            [(0.25, 0.03), (0.2, 0.42)],
            [(0.2, 0.42), (0.6, 0.38), (0.82, 0.65), (0.6, 0.95), (0.12, 0.95)],
        ]
    ],
    "6": [[[(0.7, 0), (0.3, 0.3), (0.12, 0.7), (0.4, 1), (0.75, 0.85), (0.65, 0.55), (0.3, 0.6), (0.15, 0.75)]]],
    "7": [
        [[(0.1, 0.03), (0.85, 0.02)], [(0.85, 0.02), (0.6, 0.45), (0.4, 1)]],
        [[(0.1, 0.03), (0.85, 0.02)], [(0.85, 0.02), (0.6, 0.45), (0.4, 1)], [(0.35, 0.5), (0.8, 0.48)]],
    ],
    "8": [
        [
            [(0.75, 0.15), (0.45, 0), (0.2, 0.2), (0.45, 0.45), (0.8, 0.72), (0.5, 1), (0.15, 0.78)],
            [(0.15, 0.78), (0.45, 0.48), (0.72, 0.3), (0.75, 0.15)],
        ]
    ],
    "9": [[[(0.8, 0.2), (0.5, 0), (0.2, 0.2), (0.4, 0.45), (0.78, 0.25)], [(0.8, 0.2), (0.75, 0.6), (0.6, 1)]]],
    "X": [[[(0.05, 0), (0.95, 1)], [(0.95, 0), (0.05, 1)]]],
    "+": [[[(0.5, 0), (0.5, 1)], [(0, 0.5), (1, 0.5)]]],
    "?": [],  # a scribble, drawn at random
    " ": [[]],
}
PAPERS = ["thick", "thin", "squared", "shaded", "ruled", "framed", "shadow", "rotated", "several", "none"]


def curve(stroke: Stroke) -> np.ndarray:
    """Points (N, 2) float along the Catmull-Rom spline through a stroke's points."""
    p = np.array([stroke[0], *stroke, stroke[-1]], dtype=float)
    t = np.linspace(0, 1, 20)[:, None]
    parts = [
        b + t * (c - a) / 2 + t**2 * (2 * a - 5 * b + 4 * c - d) / 2 + t**3 * (3 * b - a - 3 * c + d) / 2
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
    ]
    return np.concatenate(parts)


def ink_of(
    sign: str, height: float, width: float, size: tuple[int, int], place: Point, turn: float, rng: np.random.Generator
) -> np.ndarray:
    """Ink of one sign, (H, W) float in 0..1.

    Args:
        sign: One of SHAPES.
        height: Of the sign, in pixels.
        width: Of the stroke, as a share of the height.
        size: W and H.
        place: x and y of the sign's middle, in pixels.
        turn: Degrees, counted clockwise.
        rng: Chooses the shape and how the hand trembles.
    """
    image = Image.new("L", (2 * size[0], 2 * size[1]))
    pen, radius = ImageDraw.Draw(image), height * width
    strokes = SHAPES[sign][rng.integers(len(SHAPES[sign]))] if SHAPES[sign] else [list(rng.random((12, 2)))]
    angle = np.deg2rad(turn)
    rotate = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    form = np.array([[rng.uniform(0.5, 0.75), 0], [rng.uniform(-0.25, 0.05), 1]]) @ rotate * 2 * height
    wobble = {}  # strokes that meet go on meeting
    for stroke in strokes:
        points = [wobble.setdefault(tuple(p), np.array(p) + rng.normal(0, 0.035, 2)) for p in stroke]
        path = [tuple(point) for point in (curve(points) - 0.5) @ form + 2 * np.array(place)]
        pen.line(path, fill=255, width=round(2 * radius), joint="curve")
        for x, y in (path[0], path[-1]):
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return np.asarray(image.resize(size, Image.Resampling.BOX)) / 255


def lines_on(size: tuple[int, int], paper: str, rng: np.random.Generator) -> np.ndarray:
    """Lines of squared or ruled paper, not quite straight, or a frame, (H, W) float in 0..1."""
    w, h = size
    image = Image.new("L", (2 * w, 2 * h))
    pen = ImageDraw.Draw(image)
    thick = int(rng.integers(1, 4)) + (2 * int(rng.integers(0, 4)) if paper == "framed" else 0)
    if paper == "framed":
        inset = rng.choice([0, rng.uniform(0.02, 0.1)]) * min(size) * 2
        pen.rectangle((inset, inset, 2 * w - 1 - inset, 2 * h - 1 - inset), outline=255, width=thick)
    else:
        step = rng.uniform(0.06, 0.16) * 2 * h
        reach = range(-2 * max(size), 4 * max(size), round(step))
        shift = rng.uniform(0, step)
        for at in reach:
            pen.line((-w, at + shift, 3 * w, at + shift), fill=255, width=thick)
            if paper != "ruled":
                pen.line((at + shift, -h, at + shift, 3 * h), fill=255, width=thick)
        image = image.rotate(rng.uniform(-4, 4), Image.Resampling.BILINEAR)
    return np.asarray(image.resize(size, Image.Resampling.BOX)) / 255


def photograph(text: str, paper: str, rng: np.random.Generator) -> Image.Image:
    """A picture of signs from SHAPES, as wide and dark as they come, on one of PAPERS."""
    high = int(rng.integers(160, 500))
    size = (int(high * rng.uniform(0.8, 1.3) * (0.35 + 0.65 * len(text))), high)
    width = {"thick": rng.uniform(0.12, 0.2), "thin": rng.uniform(0.01, 0.045)}.get(paper, rng.uniform(0.05, 0.12))
    height = high * rng.uniform(0.35, 0.65)
    ink = np.zeros((high, size[0]))
    step = height * rng.uniform(0.85, 1.1)
    for number, sign in enumerate(text):
        x = size[0] / 2 + (number - (len(text) - 1) / 2) * step
        turn = rng.choice([-1, 1]) * rng.uniform(8, 22) if paper == "rotated" else 0
        one = ink_of(sign, height, width, size, (x, high * rng.uniform(0.46, 0.54)), turn, rng)
        ink = np.maximum(ink, one)
    if paper == "none":  # of any kind
        paper = str(rng.choice(["thick", "squared", "shaded", "ruled", "framed", "shadow"]))
    light, dark = rng.uniform(190, 250, 3), rng.uniform(10, 90, 3)
    picture = np.broadcast_to(light, (high, size[0], 3))
    if paper in ("squared", "shaded", "ruled", "framed"):
        paleness = rng.uniform(0, 0.4) if paper == "framed" else rng.uniform(0.25, 0.85)
        lines = lines_on(size, paper, rng)[..., None]
        picture = picture * (1 - lines) + lines * (paleness * light + (1 - paleness) * rng.uniform(0, 130, 3))
    picture = picture * (1 - ink[..., None]) + dark * ink[..., None]
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : high * 1j, -1 : 1 : size[0] * 1j]
    across = x * np.cos(angle) + y * np.sin(angle)
    if paper == "shaded":
        picture = picture * (1 - (across[..., None] + 1.4) / 2.8 * rng.uniform(0.3, 0.6))
    if paper == "shadow":
        edge = ((across - rng.uniform(-0.4, 0.4)) / rng.uniform(0.005, 0.05) + 0.5).clip(0, 1)
        picture = picture * (1 - edge[..., None] * rng.uniform(0.3, 0.6))
    picture = picture + rng.normal(0, rng.choice([0, 3, 8]), picture.shape)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(rng.uniform(0, 1)))


def cases(seed: int, each: int = 20) -> list[tuple[str, str, Image.Image]]:
    """Pictures, `each` of every kind: its kind of PAPERS, the digits in it, none for what is no digit, and itself."""
    rng = np.random.default_rng(seed)
    found = []
    for paper in PAPERS:
        for number in range(each):
            text = str(number % 10)
            if paper == "several":
                text = "".join(map(str, rng.integers(0, 10, rng.integers(2, 5))))
            if paper == "none":
                text = "X+? "[number % 4]
            found.append((paper, text if paper != "none" else "", photograph(text, paper, rng)))
    for number in range(each):
        noise = rng.integers(0, 256, (200, 200)) if number % 2 else rng.normal(200, 25, (200, 200)).clip(0, 255)
        found.append(("noise", "", Image.fromarray(noise.astype(np.uint8))))
    return found


def main(checkpoint: str, seed: str) -> None:
    """Draw pictures, let `predict` read them, and print how many of each kind it reads, and how many it is sure of.

    The right reading of a picture without a digit is none; one that is sure there is a mistake.
    """
    with tempfile.TemporaryDirectory() as folder:
        expected = {}
        for number, (paper, text, image) in enumerate(cases(int(seed))):
            path = f"{folder}/{number:04}.png"
            image.save(path)
            expected[path] = paper, text
        table = Path(folder, "table.csv")
        words = ["predict", "--ckpt_path", checkpoint, "--images", folder, "--csv", str(table)]
        subprocess.run([sys.executable, "-m", "mnist_mlp", *words], capture_output=True, check=False)
        with table.open() as file:
            rows = list(csv.DictReader(file))
    counts: dict[str, Counter[str]] = {}
    for path, (paper, text) in expected.items():
        found = [row for row in rows if row["file"] == path]
        right = "".join(row["digit"] for row in found) == text
        sure = bool(found) and all(row.get("sure") != "no" for row in found)
        kinds = {
            "pictures": 1,
            "right": right,
            "right but not sure": right and not sure,
            "wrong but sure": sure > right,
        }
        counts.setdefault(paper, Counter()).update(kinds if text else {"pictures": 1, "taken for sure digits": sure})
    digits = [count for paper, count in counts.items() if paper not in ("none", "noise")]
    for paper, count in [*counts.items(), ("digits", sum(digits, Counter()))]:
        print(f"{paper:<8}", ", ".join(f"{name} {number}" for name, number in count.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
