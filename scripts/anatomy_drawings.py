"""Pictures that are drawn and no chest: limbs, noise, pages, shapes, faces; and the strokes that other pictures get.

Pictures are uint8 [H,W], 0..255.
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
    grain = blurred(dice.normal(0, 1, canvas.shape), dice.uniform(1, 8))
    picture = as_grey(255 * np.clip(canvas + 0.05 * dice.random() * grain / grain.std(), 0, 1))
    if dice.random() < 0.5:
        write_text(picture, dice)
    return as_grey(255 - picture) if dice.random() < 0.15 else picture


def drawing(dice: Dice) -> Gray8:
    """Return noise, a gradient, a page of text, shapes, something like a face, a pattern."""
    rows, columns = (int(side) for side in dice.integers(80, 256, 2))
    draw = (_noise, _gradient, _ball, _page, _shapes, _face, _pattern)[dice.integers(7)]
    return draw(rows, columns, dice)


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
    return _spread(blurred(dice.normal(0, 1, (rows, columns)), float(np.exp(dice.uniform(-1, 3.5)))))


def _gradient(rows: int, columns: int, dice: Dice) -> Gray8:
    angle = dice.uniform(0, 6.3)
    return _spread(np.add.outer(np.sin(angle) * np.arange(rows) / rows, np.cos(angle) * np.arange(columns) / columns))


def _ball(rows: int, columns: int, dice: Dice) -> Gray8:
    x, y = dice.uniform(0.3, 0.7, 2)
    far = np.hypot(*np.meshgrid(np.arange(columns) / columns - x, (np.arange(rows) / rows - y) * dice.uniform(0.5, 2)))
    ball = _spread(np.clip(far / far.max() * dice.uniform(1, 3), 0, 1))
    return as_grey(255 - ball) if dice.random() < 0.5 else ball


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
    return as_grey(cv2.GaussianBlur(picture, (0, 0), dice.uniform(0.5, 6))) if dice.random() < 0.5 else picture


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
    return as_grey(smooth + dice.normal(0, dice.uniform(0, 8), smooth.shape))


def _pattern(rows: int, columns: int, dice: Dice) -> Gray8:
    return _spread(np.add.outer(np.cumsum(dice.normal(0, 1, rows)), np.cumsum(dice.normal(0, 1, columns))))


def write_text(picture: Gray8, dice: Dice) -> None:
    """Write some letters somewhere into a picture."""
    height, width = picture.shape
    text = "".join(dice.choice(_LETTERS, dice.integers(1, 10)))
    at = (int(dice.uniform(0, 0.8) * width), int(dice.uniform(0.03, 1) * height))
    size = dice.uniform(0.25, 0.9) * max(height, width) / 256
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, int(dice.choice((255, 255, 0, 200))), 1)


def blurred(levels: Levels, sigma: float) -> Levels:
    """Return levels, [H,W], of the precision that they have, blurred."""
    return np.asarray(cv2.GaussianBlur(levels, (0, 0), sigma), levels.dtype)


def _spread(values: np.ndarray) -> Gray8:
    return as_grey(255 * (values - values.min()) / (np.ptp(values) + 1e-9))


def as_grey(values: np.ndarray) -> Gray8:
    """Return levels, [H,W], cut to 0..255."""
    return np.ascontiguousarray(np.clip(values, 0, 255).astype(np.uint8))
