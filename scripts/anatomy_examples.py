"""Pictures to learn from: radiographs as they come in practice, radiographs put together wrong, and drawings.

None of it is what image_variations.py does, which judges. Each function takes and returns uint8 [H,W], 0..255.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrbatch.records import Gray8

Dice = np.random.Generator
# Grey levels while they are worked on: of whatever precision the last step left.
Levels = NDArray[np.floating[Any]]
_LETTERS = list("ABCDEFGHIKLMNOPRSTUX0123456789 ")


def as_in_practice(display: Gray8, dice: Dice) -> Gray8:
    """Return a chest moved, turned, cut, windowed, marked, framed, compressed: still one."""
    picture = _moved(display, dice)
    if dice.random() < 0.5:
        least = dice.choice((0, 0, 0.08))
        picture = _cut(picture, dice.uniform(least, 0.17, 4))
    picture = _windowed(picture, dice)
    if dice.random() < 0.25:
        picture = _veiled(picture, dice)
    if dice.random() < 0.5:
        picture = _marked(picture, dice)
    if dice.random() < 0.3:
        picture = _framed(picture, dice)
    return _stored(picture, dice)


def put_together_wrong(display: Gray8, dice: Dice) -> Gray8:
    """Return the texture of a radiograph, but no upright frontal chest: turned, a detail, shuffled."""
    height, width = display.shape
    kind = dice.integers(6)
    if kind == 0:
        picture = np.rot90(display, dice.choice((1, 3)))
    elif kind == 1:
        picture = display[::-1]
    elif kind == 2:
        part = dice.uniform(0.2, 0.45)
        top, left = dice.uniform(0, 1 - part, 2)
        picture = _cut(display, (top, 1 - part - top, left, 1 - part - left))
    elif kind == 3:
        picture = _shuffled(display, int(dice.choice((2, 3, 4))), dice)
    elif kind == 4:
        picture = np.hstack([display[:, width // 2 :], display[:, : width // 2]])
    else:
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), dice.uniform(50, 310), dice.uniform(0.7, 1.2))
        picture = _grey(cv2.warpAffine(display, matrix, (width, height)))
    return _framed(picture, dice) if dice.random() < 0.3 else np.ascontiguousarray(picture)


def seen_otherwise(picture: Gray8, dice: Dice) -> Gray8:
    """Return a part of a foreign picture, brighter, darker, blurred, noisy or negative."""
    if dice.random() < 0.5:
        part = dice.uniform(0.4, 0.95)
        top, left = dice.uniform(0, 1 - part, 2)
        picture = _cut(picture, (top, 1 - part - top, left, 1 - part - left))
    if dice.random() < 0.3:
        picture = picture[:, ::-1]
    levels: Levels = picture.astype(np.float32)
    if dice.random() < 0.4:
        levels = 255 * (levels / 255) ** np.exp(dice.uniform(-0.8, 0.8))
    if dice.random() < 0.3:
        levels = levels + dice.normal(0, dice.uniform(2, 20), levels.shape)
    if dice.random() < 0.35:
        levels = _blurred(levels, dice.uniform(0.5, 5))
    return _grey(255 - levels if dice.random() < 0.4 else levels)


def limb(dice: Dice, side: int = 192) -> Gray8:
    """Return bones in soft tissue, joints, something like a skull: bright rods and balls on black."""
    middles = (np.arange(side) + 0.5) / side
    down, across = np.meshgrid(middles, middles, indexing="ij")
    canvas = np.zeros((side, side))
    for _ in range(dice.integers(1, 3)):
        _add_limb(canvas, across, down, dice)
    for _ in range(dice.integers(0, 6)):
        (x, y), (wide, high) = dice.uniform(0.1, 0.9, 2), dice.uniform(0.04, 0.35, 2)
        ball = np.sqrt(np.clip(1 - ((across - x) / wide) ** 2 - ((down - y) / high) ** 2, 0, 1))
        canvas += dice.uniform(-0.3, 0.8) * ball
    canvas = np.clip(canvas, 0, None) / (np.percentile(canvas, 99.5) + 1e-6)
    grain = _blurred(dice.normal(0, 1, canvas.shape), dice.uniform(1, 8))
    picture = _grey(255 * np.clip(canvas + 0.05 * dice.random() * grain / grain.std(), 0, 1))
    if dice.random() < 0.5:
        _write(picture, dice)
    return _grey(255 - picture) if dice.random() < 0.15 else picture


def drawing(dice: Dice) -> Gray8:
    """Return noise, a gradient, a page of text, shapes, something like a face, a pattern."""
    rows, columns = (int(side) for side in dice.integers(80, 256, 2))
    draw = (_noise, _gradient, _ball, _page, _shapes, _face, _pattern)[dice.integers(7)]
    return draw(rows, columns, dice)


def _moved(display: Gray8, dice: Dice) -> Gray8:
    height, width = display.shape
    if dice.random() < 0.5:
        display = display[:, ::-1]
    angle = dice.uniform(-12, 12) * (dice.random() < 0.6)
    scale = dice.uniform(0.85, 1.15) if dice.random() < 0.7 else 1.0
    matrix = np.asarray(cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale), np.float64)
    matrix[:, 2] += dice.uniform(-0.08, 0.08, 2) * (width, height)
    matrix[0, 0] *= dice.uniform(0.85, 1.15)
    around = int(dice.choice((0, 0, 0, 255)))
    return _grey(cv2.warpAffine(np.ascontiguousarray(display), matrix, (width, height), borderValue=around))


def _windowed(picture: Gray8, dice: Dice) -> Gray8:
    levels: Levels = picture.astype(np.float32)
    if dice.random() < 0.6:
        levels = 255 * (levels / 255) ** np.exp(dice.uniform(-0.6, 0.6))
    if dice.random() < 0.3:
        low, high = np.percentile(levels, (dice.uniform(0, 30), dice.uniform(70, 100)))
        levels = np.clip((levels - low) / max(high - low, 1), 0, 1) * 255
    if dice.random() < 0.25:
        levels = dice.uniform(0, 100) + levels * dice.uniform(0.25, 0.6)
    if dice.random() < 0.3:
        levels = levels + dice.normal(0, dice.uniform(2, 22), levels.shape)
    if dice.random() < 0.25:
        levels = _blurred(levels, dice.uniform(0.5, 2))
    if dice.random() < 0.25:
        coarse = _blurred(levels, max(levels.shape) / dice.uniform(20, 40))
        levels = 128 + dice.uniform(1, 2) * (levels - dice.uniform(0.3, 0.7) * coarse - 0.3 * coarse.mean())
    return _grey(levels)


def _veiled(picture: Gray8, dice: Dice) -> Gray8:
    """Whiten a lung or a part of it."""
    height, width = picture.shape
    veil: Levels = np.zeros(picture.shape, np.float32)
    centre = (int(width * (dice.choice((0.3, 0.7)) + dice.uniform(-0.04, 0.04))), int(height * dice.uniform(0.4, 0.75)))
    axes = (int(0.22 * width), int(height * dice.uniform(0.15, 0.4)))
    cv2.ellipse(veil, centre, axes, 0, 0, 360, 1.0, -1)
    veil = _blurred(veil, max(height, width) / 30)
    missing = np.clip(np.percentile(picture, 88) - picture.astype(np.float32), 0, 255)
    return _grey(picture + veil * missing * dice.uniform(0.6, 1))


def _marked(picture: Gray8, dice: Dice) -> Gray8:
    """Burn in text, cables and a device."""
    marked = picture.copy()
    size = np.array(marked.shape[::-1])
    for _ in range(dice.integers(0, 4)):
        _write(marked, dice)
    for _ in range(dice.integers(0, 6)):
        points = (dice.uniform(0, 1, (dice.integers(2, 5), 2)) * size).astype(np.int32)
        cv2.polylines(marked, [points], False, int(dice.choice((255, 230, 0))), int(dice.integers(1, 4)))
    if dice.random() < 0.3:
        centre = (dice.uniform(0.15, 0.85, 2) * size).astype(int).tolist()
        cv2.ellipse(marked, centre, (int(size[0] * 0.07), int(size[0] * 0.05)), 0, 0, 360, 255, -1)
    return marked


def _framed(picture: Gray8, dice: Dice) -> Gray8:
    height, width = picture.shape
    sides = dice.uniform(0, 0.15, 4) * (height, height, width, width) * (dice.random(4) < 0.6)
    grey = int(dice.choice((0, 0, 255, int(dice.integers(0, 255)))))
    top, bottom, left, right = (int(side) for side in sides)
    inside = np.ascontiguousarray(picture)
    return _grey(cv2.copyMakeBorder(inside, top, bottom, left, right, cv2.BORDER_CONSTANT, value=grey))


def _stored(picture: Gray8, dice: Dice) -> Gray8:
    if dice.random() < 0.3:
        scale = dice.uniform(0.4, 1)
        picture = _grey(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    if dice.random() < 0.3:
        written = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(dice.integers(30, 95))])[1]
        picture = np.asarray(cv2.imdecode(written, cv2.IMREAD_GRAYSCALE), np.uint8)
    return _grey(255 - picture) if dice.random() < 0.12 else picture


def _shuffled(display: Gray8, count: int, dice: Dice) -> Gray8:
    side = 48
    tiled = cv2.resize(display, (side * count, side * count))
    tiles = [
        tiled[row : row + side, at : at + side]
        for row in range(0, side * count, side)
        for at in range(0, side * count, side)
    ]
    order = dice.permutation(count * count).reshape(count, count)
    return _grey(np.block([[tiles[number] for number in row] for row in order]))


def _add_limb(canvas: np.ndarray, across: np.ndarray, down: np.ndarray, dice: Dice) -> None:
    (x, y), angle, length, radius = (
        dice.uniform(0.2, 0.8, 2),
        dice.uniform(0, 6.3),
        dice.uniform(0.5, 1.5),
        dice.uniform(0.08, 0.35),
    )
    step = length * np.array([np.cos(angle), np.sin(angle)])
    for number in range(dice.integers(1, 3)):
        aside = dice.uniform(-0.5, 0.5) * radius
        along = (across - x - aside) * step[0] + (down - y - aside) * step[1]
        along = np.clip(along / (step**2).sum(), -1, 1)
        distance = np.hypot(across - x - aside - along * step[0], down - y - aside - along * step[1])
        if number == 0:
            canvas += 0.5 * np.sqrt(np.clip(1 - (distance / radius) ** 2, 0, 1))
        bone = radius * dice.uniform(0.15, 0.5)
        canvas += dice.uniform(0.3, 0.8) * np.sqrt(np.clip(1 - (distance / bone) ** 2, 0, 1))
        if dice.random() < 0.5:
            canvas -= 0.25 * np.sqrt(np.clip(1 - (distance / bone * 2) ** 2, 0, 1))


def _noise(rows: int, columns: int, dice: Dice) -> Gray8:
    return _spread(_blurred(dice.normal(0, 1, (rows, columns)), float(np.exp(dice.uniform(-1, 3.5)))))


def _gradient(rows: int, columns: int, dice: Dice) -> Gray8:
    angle = dice.uniform(0, 6.3)
    return _spread(np.add.outer(np.sin(angle) * np.arange(rows) / rows, np.cos(angle) * np.arange(columns) / columns))


def _ball(rows: int, columns: int, dice: Dice) -> Gray8:
    x, y = dice.uniform(0.3, 0.7, 2)
    far = np.hypot(*np.meshgrid(np.arange(columns) / columns - x, (np.arange(rows) / rows - y) * dice.uniform(0.5, 2)))
    ball = _spread(np.clip(far / far.max() * dice.uniform(1, 3), 0, 1))
    return _grey(255 - ball) if dice.random() < 0.5 else ball


def _page(rows: int, columns: int, dice: Dice) -> Gray8:
    paper = 255 * int(dice.integers(0, 2))
    page = np.full((rows, columns), paper, np.uint8)
    size = dice.uniform(0.25, 0.5)
    for row in range(8, rows, int(dice.integers(8, 20))):
        line = "".join(dice.choice(list("abcdefghijklmno pqrst"), 40))
        cv2.putText(page, line, (int(dice.integers(0, 20)), row), cv2.FONT_HERSHEY_SIMPLEX, size, 255 - paper, 1)
    return page


def _shapes(rows: int, columns: int, dice: Dice) -> Gray8:
    picture = np.full((rows, columns), int(dice.integers(0, 256)), np.uint8)
    for _ in range(dice.integers(1, 9)):
        one, other = ((dice.uniform(0, 1, 2) * (columns, rows)).astype(int).tolist() for _ in range(2))
        grey, thick = int(dice.integers(0, 256)), int(dice.choice((-1, -1, 1, 2, 5)))
        kind = dice.integers(3)
        if kind == 0:
            cv2.rectangle(picture, one, other, grey, thick)
        elif kind == 1:
            axes = (dice.uniform(0.05, 0.5, 2) * (columns, rows)).astype(int).tolist()
            cv2.ellipse(picture, one, axes, 0, 0, 360, grey, thick)
        else:
            cv2.line(picture, one, other, grey, abs(thick))
    return _grey(cv2.GaussianBlur(picture, (0, 0), dice.uniform(0.5, 6))) if dice.random() < 0.5 else picture


def _face(rows: int, columns: int, dice: Dice) -> Gray8:
    """Two dark spots in something bright, side by side: what is most easily taken for lungs."""
    picture = np.full((rows, columns), int(dice.integers(0, 120)), np.uint8)
    head = (int(columns * dice.uniform(0.2, 0.45)), int(rows * dice.uniform(0.3, 0.5)))
    cv2.ellipse(picture, (columns // 2, rows // 2), head, 0, 0, 360, int(dice.integers(120, 256)), -1)
    aside, height = dice.uniform(0.1, 0.22), int(rows * dice.uniform(0.3, 0.55))
    eye = (int(columns * dice.uniform(0.03, 0.16)), int(rows * dice.uniform(0.02, 0.3)))
    for side in (-1, 1):
        centre = (int(columns * (0.5 + side * aside)), height)
        cv2.ellipse(picture, centre, eye, 0, 0, 360, int(dice.integers(0, 100)), -1)
    if dice.random() < 0.5:
        mouth = (int(columns * 0.12), int(rows * 0.05))
        cv2.ellipse(picture, (columns // 2, int(rows * 0.75)), mouth, 0, 0, 360, int(dice.integers(0, 100)), -1)
    smooth = cv2.GaussianBlur(picture, (0, 0), dice.uniform(0.5, 7))
    return _grey(smooth + dice.normal(0, dice.uniform(0, 8), smooth.shape))


def _pattern(rows: int, columns: int, dice: Dice) -> Gray8:
    return _spread(np.add.outer(np.cumsum(dice.normal(0, 1, rows)), np.cumsum(dice.normal(0, 1, columns))))


def _write(picture: Gray8, dice: Dice) -> None:
    height, width = picture.shape
    text = "".join(dice.choice(_LETTERS, dice.integers(1, 10)))
    at = (int(dice.uniform(0, 0.8) * width), int(dice.uniform(0.03, 1) * height))
    size = dice.uniform(0.25, 0.9) * max(height, width) / 256
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, int(dice.choice((255, 255, 0, 200))), 1)


def _cut(picture: Gray8, sides: tuple[float, float, float, float] | np.ndarray) -> Gray8:
    height, width = picture.shape
    top, bottom, left, right = sides
    rows = slice(int(top * height), max(int(top * height) + 8, height - int(bottom * height)))
    columns = slice(int(left * width), max(int(left * width) + 8, width - int(right * width)))
    return np.ascontiguousarray(picture[rows, columns])


def _blurred(levels: Levels, sigma: float) -> Levels:
    """Return levels, [H,W], of the precision that they have, blurred."""
    return np.asarray(cv2.GaussianBlur(levels, (0, 0), sigma), levels.dtype)


def _spread(values: np.ndarray) -> Gray8:
    return _grey(255 * (values - values.min()) / (np.ptp(values) + 1e-9))


def _grey(values: np.ndarray) -> Gray8:
    return np.ascontiguousarray(np.clip(values, 0, 255).astype(np.uint8))
