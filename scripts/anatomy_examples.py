"""Pictures to learn from: radiographs as they come in practice, put together wrong, and parts of foreign pictures.

None of it is what image_variations.py does, which judges. Each function takes and returns uint8 [H,W], 0..255.
"""

from __future__ import annotations

import cv2
import numpy as np

from cxrbatch.records import Gray8
from scripts.anatomy_drawings import Dice, Levels, as_grey, blurred, write_text


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
        picture = as_grey(cv2.warpAffine(display, matrix, (width, height)))
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
        levels = blurred(levels, dice.uniform(0.5, 5))
    return as_grey(255 - levels if dice.random() < 0.4 else levels)


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
    return as_grey(cv2.warpAffine(np.ascontiguousarray(display), matrix, (width, height), borderValue=around))


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
        levels = blurred(levels, dice.uniform(0.5, 2))
    if dice.random() < 0.25:
        coarse = blurred(levels, max(levels.shape) / dice.uniform(20, 40))
        levels = 128 + dice.uniform(1, 2) * (levels - dice.uniform(0.3, 0.7) * coarse - 0.3 * coarse.mean())
    return as_grey(levels)


def _veiled(picture: Gray8, dice: Dice) -> Gray8:
    """Whiten a lung or a part of it."""
    height, width = picture.shape
    veil: Levels = np.zeros(picture.shape, np.float32)
    centre = (int(width * (dice.choice((0.3, 0.7)) + dice.uniform(-0.04, 0.04))), int(height * dice.uniform(0.4, 0.75)))
    axes = (int(0.22 * width), int(height * dice.uniform(0.15, 0.4)))
    cv2.ellipse(veil, centre, axes, 0, 0, 360, 1.0, -1)
    veil = blurred(veil, max(height, width) / 30)
    missing = np.clip(np.percentile(picture, 88) - picture.astype(np.float32), 0, 255)
    return as_grey(picture + veil * missing * dice.uniform(0.6, 1))


def _marked(picture: Gray8, dice: Dice) -> Gray8:
    """Burn in text, cables and a device."""
    marked = picture.copy()
    size = np.array(marked.shape[::-1])
    for _ in range(dice.integers(0, 4)):
        write_text(marked, dice)
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
    return as_grey(cv2.copyMakeBorder(inside, top, bottom, left, right, cv2.BORDER_CONSTANT, value=grey))


def _stored(picture: Gray8, dice: Dice) -> Gray8:
    if dice.random() < 0.3:
        scale = dice.uniform(0.4, 1)
        picture = as_grey(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    if dice.random() < 0.3:
        written = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(dice.integers(30, 95))])[1]
        picture = np.asarray(cv2.imdecode(written, cv2.IMREAD_GRAYSCALE), np.uint8)
    return as_grey(255 - picture) if dice.random() < 0.12 else picture


def _shuffled(display: Gray8, count: int, dice: Dice) -> Gray8:
    side = 48
    tiled = cv2.resize(display, (side * count, side * count))
    tiles = [
        tiled[row : row + side, at : at + side]
        for row in range(0, side * count, side)
        for at in range(0, side * count, side)
    ]
    order = dice.permutation(count * count).reshape(count, count)
    return as_grey(np.block([[tiles[number] for number in row] for row in order]))


def _cut(picture: Gray8, sides: tuple[float, float, float, float] | np.ndarray) -> Gray8:
    height, width = picture.shape
    top, bottom, left, right = sides
    rows = slice(int(top * height), max(int(top * height) + 8, height - int(bottom * height)))
    columns = slice(int(left * width), max(int(left * width) + 8, width - int(right * width)))
    return np.ascontiguousarray(picture[rows, columns])
