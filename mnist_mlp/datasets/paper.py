"""Ink on paper: shade, ruled lines and frames are taken off a picture, and its signs are cut out.

Nothing is taken off a plain drawing, whose ground is even.
"""

import numpy as np
from PIL import Image

LONGEST = 400  # pixels of a side; larger images are reduced, as more pixels cost time and do not help
FAINTEST = 32  # lowest contrast, of 255, between ink and paper
LIGHT, DARK = 0.3, 0.7  # shares of the strongest contrast: below LIGHT is paper, above DARK is ink
STROKE = 0.25  # share of a side: strokes are narrower
STEEPEST = 0.1  # slope of a line
LINE_LENGTH, LINE_WIDTH = 0.7, 0.05  # shares of a side: a line is longer and thinner
SPECK = 0.25  # share of the tallest sign's size: a smaller piece is dirt
SHADOW, SMALLEST, GAP = 0.5, 0.04, 0.005
EDGE = 0.02  # share of a sign's size: as soft as its edges may be
APART = 0.5  # share of the narrower one's width: pieces of ink that overlap more are one sign


def read_ink(image: Image.Image) -> np.ndarray | None:
    """Ink from 0 to 1, (H, W) float, H and W at most LONGEST, of an image in any of Pillow's modes; None if blank."""
    distance = contrast(colours_of(image))
    if distance.max() < FAINTEST:
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
    if 0 < opacity.sum() < opacity.size:  # put a dark drawing on white, a bright one on black
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
    """Brightness, (H, W), of the paper under the ink: strokes are closed, by their own surroundings, edges of shade stay."""
    from scipy import ndimage  # as late as it is needed, it takes long to import

    size = round(STROKE * max(brightness.shape)) + 1
    padded = np.pad(brightness, size // 2, mode="edge")  # shade goes on beyond the picture
    light = ndimage.grey_closing(padded, size)[size // 2 :, size // 2 :][: len(brightness), : brightness.shape[1]].clip(1)
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
    height, width = ink.shape
    marked = ink > LIGHT / 2
    # How much ink there is above each pixel without a break, and below it, the pixel itself counted twice.
    above, below = run_lengths(marked), run_lengths(marked[::-1])[::-1]
    run = above + below - 1
    thin = marked & (run <= max(2, LINE_WIDTH * max(ink.shape)))
    line = np.zeros_like(marked)
    x = np.arange(width)
    drift = round(STEEPEST * width)
    padded = np.pad(thin, ((drift, drift), (0, 0)))
    for fall in range(-drift, drift + 1):
        y = np.arange(height)[:, None] + drift + np.round(fall * (x / width - 0.5)).astype(int)
        found = padded[y, x].mean(axis=1) > LINE_LENGTH
        if found.any():
            at = y[found] - drift
            inside = (0 <= at) & (at < height)
            line[at[inside], np.broadcast_to(x, at.shape)[inside]] = True
    line &= thin
    if not line.any():
        return ink
    thickest = 1.5 * np.median(run[line]) + 1
    # A whole run goes, or stays.
    hit = line & (run <= thickest)
    for step in range(int(thickest)):
        hit[1:] |= hit[:-1] & marked[1:]
        hit[:-1] |= hit[1:] & marked[:-1]
    return np.where(hit, 0, ink)


def run_lengths(marked: np.ndarray) -> np.ndarray:
    """How many pixels up to each one of a column are marked without a break, (H, W)."""
    rows = np.arange(1, len(marked) + 1)[:, None]
    return np.where(marked, rows - np.maximum.accumulate(np.where(marked, 0, rows), axis=0), 0)


def signs_in(ink: np.ndarray) -> list[np.ndarray]:
    """The signs in a picture's ink, each (H, W) and cut out, from left to right; none if the ink is only dirt."""
    from scipy import ndimage

    reach = round(GAP * max(ink.shape))
    joined = ndimage.binary_dilation(ink > 0.5, iterations=reach) if reach else ink > 0.5
    pieces, _ = ndimage.label(joined, np.ones((3, 3)))
    boxes = ndimage.find_objects(pieces)
    extent = [max(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in boxes]
    # Dirt is small, and so are corners of a shadow.
    least = [max(extent) * (SHADOW if at_rim(box, ink.shape) else SPECK) for box in boxes]
    kept = [i for i, size in enumerate(extent) if size >= max(least[i], SMALLEST * max(ink.shape))]
    if ink[np.isin(pieces, [i + 1 for i in kept])].sum() < 0.5 * ink.sum():
        return []
    groups: list[tuple[slice, set[int]]] = []
    for i in sorted(kept, key=lambda i: boxes[i][1].start):
        span, members = boxes[i][1], {i}
        for other in [group for group in groups if overlap(group[0], span)]:
            groups.remove(other)
            span = slice(min(span.start, other[0].start), max(span.stop, other[0].stop))
            members |= other[1]
        groups.append((span, members))
    found = []
    for _, members in sorted(groups, key=lambda group: group[0].start):
        mask = np.isin(pieces, [i + 1 for i in members])
        reach = 1 + round(EDGE * max(extent[i] for i in members))
        found.append(np.where(ndimage.binary_dilation(mask, np.ones((3, 3)), reach), ink, 0))
    return found


def at_rim(box: tuple[slice, slice], shape: tuple[int, int]) -> bool:
    """Whether a box touches the border of a picture."""
    return any(span.start == 0 or span.stop == side for span, side in zip(box, shape, strict=True))


def overlap(first: slice, second: slice) -> bool:
    """Whether two ranges have more than APART of the shorter one in common."""
    common = min(first.stop, second.stop) - max(first.start, second.start)
    return common > APART * min(first.stop - first.start, second.stop - second.start)
