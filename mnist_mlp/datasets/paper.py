"""Ink on paper: shade, ruled lines and frames are taken off a picture, and its signs are cut out.

Nothing is taken off a plain drawing, whose ground is even.
"""

import numpy as np
from PIL import Image

LONGEST = 400  # pixels of a side; larger images are reduced, as more pixels cost time and do not help
FAINTEST = 32  # lowest contrast, of 255, between ink and paper
NOISE = 5  # least ratio of the strongest contrast, smoothed, to the paper's; measured: 10 for ink, 2 to 3.4 for noise
LIGHT, DARK = 0.3, 0.7  # shares of the strongest contrast: below LIGHT is paper, above DARK is ink
STROKE = 0.25  # share of a side: strokes are narrower
STEEPEST = 0.1  # slope of a ruled line
LINE_LENGTH, LINE_WIDTH = 0.7, 0.05  # shares of a side: a ruled line is longer, and thinner
GAP, SMALLEST = 0.005, 0.04  # shares of a side: of a break in a stroke, and of a sign
SPECK, EDGE = 0.25, 0.02  # shares of the largest piece: smaller ones are dirt, and ink's edges are as soft at most
OVERLAP = 0.5  # strokes of one sign overlap by more than this share of the narrower one's width
CLOSE = 0.25  # and the gap between them is less than this share of the taller one's height
UPRIGHT = np.ones((3, 1))  # a pixel with those above and below it
Box = tuple[slice, slice]
"""Rows and columns of a part of a picture."""


def read_ink(image: Image.Image) -> np.ndarray | None:
    """Ink from 0 to 1, (H, W) float, H and W at most LONGEST, of an image in any of Pillow's modes; None if blank."""
    from scipy import ndimage  # as late as it is needed, it takes long to import

    distance = contrast(colours_of(image))
    smooth = ndimage.uniform_filter(distance, 3)
    if distance.max() < FAINTEST or smooth.max() < NOISE * np.quantile(smooth, 0.25):
        return None
    share = without_lines(distance / distance.max())
    ink = ((share - LIGHT) / (DARK - LIGHT)).clip(0, 1)
    return ink if ink.max() > 0.5 else None


def colours_of(image: Image.Image) -> np.ndarray:
    """Colours, (H, W, 3) float in 0..255, of an image reduced to LONGEST; what is transparent becomes the ground."""
    if image.mode.startswith(("I", "F")):  # more than 8 bits, which Pillow would cut off
        values = np.asarray(image, dtype=np.float32)
        finite = np.isfinite(values)
        values = np.where(finite, values, np.median(values[finite]) if finite.any() else 0)
        values = (values - values.min()) / (np.ptp(values) or 1) * 255
        image = Image.fromarray(values.astype(np.uint8))
    image = image.convert("RGBA")
    image.thumbnail((LONGEST, LONGEST))
    pixels = np.asarray(image, dtype=np.float64)
    colours, opacity = pixels[..., :3], pixels[..., 3:] / 255
    if not opacity.any():
        return np.zeros_like(colours)
    if opacity.sum() < opacity.size:  # put a dark drawing on white, a bright one on black
        ground = 255 if np.average(colours.mean(axis=2), weights=opacity[..., 0]) < 128 else 0
        colours = opacity * colours + (1 - opacity) * ground
    return colours


def contrast(colours: np.ndarray) -> np.ndarray:
    """How far each pixel's colour, (H, W, 3), is from that of the paper, in the light of the whole, (H, W)."""
    margin = min(colours.shape[:2]) // 16
    rings = [rim(colours), rim(colours[margin : -margin or None, margin : -margin or None]), colours.reshape(-1, 3)]
    # The border's, as a rule; but a frame may be there.
    paper = np.median([np.median(ring, axis=0) for ring in rings], axis=0)
    distance = abs(colours - paper).max(axis=2)
    brightness = colours.mean(axis=2)
    even = rim(distance[..., None]).max() < FAINTEST
    if even or paper.mean() < 2 * FAINTEST or np.percentile(brightness, 90) < 4 * FAINTEST:  # a board shows no shade
        return distance
    light = light_on(brightness)[..., None] / paper.mean()
    return abs((colours / light).clip(0, 255) - paper).max(axis=2)


def light_on(brightness: np.ndarray) -> np.ndarray:
    """Brightness, (H, W), of the paper: strokes are closed, being narrower than a square, and edges of shade stay."""
    from scipy import ndimage

    size = round(STROKE * max(brightness.shape)) + 1
    half, (height, width) = size // 2, brightness.shape
    closed = ndimage.grey_closing(np.pad(brightness, half, mode="edge"), size)  # shade goes on beyond the picture
    light = closed[half:, half:][:height, :width].clip(1)
    return light * np.median(brightness / light)  # noise, too, was closed


def rim(values: np.ndarray) -> np.ndarray:
    """The outermost pixels of a picture (H, W, C), as (N, C)."""
    return np.concatenate((values[0], values[-1], values[:, 0], values[:, -1]))


def without_lines(ink: np.ndarray) -> np.ndarray:
    """Ink without the lines and frames that reach through the picture, (H, W)."""
    level = rows_off(ink)
    rest = rows_off(level.T).T
    return ink if rest.max() <= 0.5 and level is ink else rest  # an upright line alone is a one


def rows_off(ink: np.ndarray) -> np.ndarray:
    """Ink without its lines that are nearly level, (H, W), kept where strokes cross them."""
    from scipy import ndimage

    marked = ink > LIGHT / 2
    run = run_lengths(marked) + run_lengths(marked[::-1])[::-1] - 1  # up and down, the pixel itself counted twice
    thin = marked & (run <= max(2, LINE_WIDTH * max(ink.shape)))
    near = ndimage.binary_dilation(thin, UPRIGHT)  # a line has steps
    if near.any(axis=0).mean() <= LINE_LENGTH / 2:  # as in most drawings
        return ink
    line = level_lines(near, marked) & thin
    if not line.any():
        return ink
    thickest = 1.5 * np.median(run[line]) + 1
    hit = ndimage.binary_dilation(line & (run <= thickest), UPRIGHT, iterations=-1, mask=marked)  # whole runs
    return np.where(hit, 0, ink)


def level_lines(near: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """Where straight lines that are nearly level go through a picture, (H, W) bool.

    Each is a row of pixels on a slope, with those above and below it, most of which are `near` thin ink or hidden by
    thick ink, which is `marked`.
    """
    from scipy import ndimage

    height, width = near.shape
    drift = round(STEEPEST * width)
    margin = ((2 * drift, 2 * drift), (0, 0))
    seen = np.pad(near, margin)
    # Where thick ink hides it, or it has left the picture, a line is as it is elsewhere.
    weight = np.pad(near + LINE_LENGTH * (marked & ~near), margin, constant_values=LINE_LENGTH)
    line = np.zeros_like(seen)
    x = np.arange(width)
    for fall in range(-drift, drift + 1, 2):
        y = np.arange(drift, height + 3 * drift)[:, None] + np.round(fall * x / width).astype(int)
        y = y[weight[y[:, ::4], x[::4]].mean(axis=1) > LINE_LENGTH]  # a fourth of the pixels tells
        line[y, x] |= seen[y, x].mean(axis=1, keepdims=True) > LINE_LENGTH / 2
    return ndimage.binary_dilation(line, UPRIGHT)[2 * drift : 2 * drift + height]


def run_lengths(marked: np.ndarray) -> np.ndarray:
    """How many pixels up to each one of a column are marked without a break, (H, W)."""
    rows = np.arange(1, len(marked) + 1)[:, None]
    return np.where(marked, rows - np.maximum.accumulate(np.where(marked, 0, rows), axis=0), 0)


def signs_in(ink: np.ndarray) -> list[np.ndarray]:
    """The signs in a picture's ink, each (H, W) with nothing else in it, line by line from the left; dirt is none."""
    from scipy import ndimage

    reach = max(1, round(GAP * max(ink.shape)))
    pieces, _ = ndimage.label(ndimage.binary_dilation(ink > 0.5, iterations=reach), np.ones((3, 3)))
    boxes = ndimage.find_objects(pieces)
    sizes = [max(span.stop - span.start for span in box) for box in boxes]
    least = max(SPECK * max(sizes), SMALLEST * max(ink.shape))
    kept = [number for number, size in enumerate(sizes) if size >= least]
    if ink[np.isin(pieces, [number + 1 for number in kept])].sum() < ink.sum() / 2:
        return []
    groups: list[tuple[Box, set[int]]] = []
    for number in sorted(kept, key=lambda number: boxes[number][1].start):
        box, members = boxes[number], {number + 1}
        for group in [group for group in groups if are_one(group[0], box)]:
            groups.remove(group)
            box, members = box_around(group[0], box), group[1] | members
        groups.append((box, members))
    lines, _ = ndimage.label(np.isin(pieces, [number + 1 for number in kept]).any(axis=1))
    groups.sort(key=lambda group: (lines[group[0][0].stop - 1], group[0][1].start))
    edge = 1 + round(EDGE * max(sizes))
    return [
        np.where(ndimage.binary_dilation(np.isin(pieces, [*members]), np.ones((3, 3)), edge), ink, 0)
        for _, members in groups
    ]


def are_one(first: Box, second: Box) -> bool:
    """Whether pieces in two boxes are strokes of one sign: they lie over one another, and close."""
    common = [min(a.stop, b.stop) - max(a.start, b.start) for a, b in zip(first, second, strict=True)]
    heights, widths = ([box[axis].stop - box[axis].start for box in (first, second)] for axis in (0, 1))
    return common[1] > OVERLAP * min(widths) and -common[0] < CLOSE * max(heights)


def box_around(first: Box, second: Box) -> Box:
    """The box around two boxes."""
    rows, columns = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
    return rows, columns
