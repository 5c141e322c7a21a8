"""`make damage`: what becomes of radiographs whose pixel data were damaged, in each transfer syntax and file format.

Real images of CXRBATCH_SHARED_DATA, as they are and encoded anew, get one damage each in the coded pixels; then they
are read as a run reads them. A damage is refused, or flagged, or unseen; of the unseen ones it is told whether a
probability of the engine moved by more than 0.01, whether the display image did, by 8 grey levels or more somewhere, or
nothing that anybody looks at. The same --seed makes the same damages.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))
from cxrbatch.config import Settings
from cxrbatch.engine.contract import Engine
from cxrbatch.engine.installed import find_bundle
from cxrbatch.engine.open import open_engine
from cxrbatch.errors import ImageRejected
from cxrbatch.intake.preprocess import prepare
from cxrbatch.intake.read import read_radiograph
from cxrbatch.records import Radiograph
from scripts.damage_samples import Sample, samples
from tests.factories.damage import HOLE_BYTES, exchange, leave_out, overwrite

SETTINGS = Settings()
SCORE_MOVED = 0.01
GREY_MOVED = 8
OUTCOMES = (
    "truncated_pixels",
    "unreadable_pixels",
    "other reasons",
    "flagged",
    "score moved",
    "picture moved",
    "nothing moved",
)


def hole(filling: str, coded: bytes, first: int, dice: random.Random) -> bytes:
    """Overwrite 4 KiB, or a quarter of what is smaller."""
    size = size_of_hole(coded, first)
    start = dice.randrange(first, len(coded) - size)
    return overwrite(coded, start, {"00": bytes(size), "FF": b"\xff" * size, "random": dice.randbytes(size)}[filling])


def stale_block(coded: bytes, first: int, dice: random.Random) -> bytes:
    """Copy 4 KiB from elsewhere in the same data over them, as a disk does that wrote a block to the wrong place."""
    size = size_of_hole(coded, first)
    start, source = (dice.randrange(first, len(coded) - size) for _ in range(2))
    return overwrite(coded, start, coded[source : source + size])


def swap_blocks(coded: bytes, first: int, dice: random.Random) -> bytes:
    """Exchange two neighbouring blocks of 4 KiB."""
    size = size_of_hole(coded, first)
    return exchange(coded, dice.randrange(first, len(coded) - 2 * size + 1), size)


def drop_fragment(coded: bytes, first: int, dice: random.Random) -> bytes:
    """Leave 4 KiB out, as where one fragment of an encapsulated frame is missing."""
    size = size_of_hole(coded, first)
    return leave_out(coded, dice.randrange(first, len(coded) - size), size)


def size_of_hole(coded: bytes, first: int) -> int:
    """Return how much is damaged at once."""
    return min(HOLE_BYTES, (len(coded) - first) // 4)


def cut(end: bytes, coded: bytes, first: int, dice: random.Random) -> bytes:
    """Cut somewhere, and write an end marker or nothing."""
    return coded[: dice.randrange(first, len(coded) - 16)] + end


def flip_bit(coded: bytes, first: int, dice: random.Random) -> bytes:
    """Flip one bit."""
    at = dice.randrange(first, len(coded))
    return coded[:at] + bytes([coded[at] ^ 1 << dice.randrange(8)]) + coded[at + 1 :]


def replace_bytes(coded: bytes, first: int, dice: random.Random) -> bytes:
    """Replace one to sixteen bytes in a row."""
    at, count = dice.randrange(first, len(coded) - 16), dice.randint(1, 16)
    return coded[:at] + dice.randbytes(count) + coded[at + count :]


DAMAGES: dict[str, Callable[[bytes, int, random.Random], bytes]] = {
    "hole of 00": partial(hole, "00"),
    "hole of FF": partial(hole, "FF"),
    "hole of random bytes": partial(hole, "random"),
    "stale block": stale_block,
    "blocks swapped": swap_blocks,
    "fragment dropped": drop_fragment,
    "cut": partial(cut, b""),
    "cut, new end marker": partial(cut, b"\xff\xd9"),
    "one bit flipped": flip_bit,
    "1 to 16 bytes replaced": replace_bytes,
}


@cache
def engine(name: str) -> Engine:
    """Open the engine once in each process."""
    return open_engine(find_bundle(name), backend="onnxruntime", threads=1)


def probabilities(radiograph: Radiograph, name: str) -> NDArray[np.float32]:
    """Return the engine's probabilities, or none without an engine."""
    if not name:
        return np.zeros(1, np.float32)
    spec = find_bundle(name).input
    return np.asarray(engine(name).infer(prepare(radiograph, spec).pixels[np.newaxis]).probabilities[0], np.float32)


def read_bytes(content: bytes) -> Radiograph:
    """Read a file that holds these bytes."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return read_radiograph(Path(file.name), SETTINGS)


def outcome_of(content: bytes, healthy: Radiograph, scores: NDArray[np.float32], engine_name: str) -> str:
    """Read a damaged file, and tell what it came to beside the healthy one."""
    try:
        found = read_bytes(content)
    except ImageRejected as rejection:
        reason = rejection.reason.value
        return reason if reason in OUTCOMES else "other reasons"
    if set(found.flags) - set(healthy.flags):
        return "flagged"
    if np.abs(probabilities(found, engine_name) - scores).max() > SCORE_MOVED:
        return "score moved"
    same_shape = found.display.shape == healthy.display.shape
    if not same_shape or cv2.absdiff(found.display, healthy.display).max() >= GREY_MOVED:
        return "picture moved"
    return "nothing moved"


def damage_sample(sample: Sample, numbers: range, seed: int, engine_name: str) -> Counter[tuple[str, str, str]]:
    """Damage one sample, every kind in turn; count (syntax, kind of damage, outcome)."""
    healthy = read_bytes(sample.put_together(sample.coded))
    scores = probabilities(healthy, engine_name)
    dice = random.Random(f"{seed} {sample.syntax} {zlib.crc32(sample.coded)}")  # noqa: S311 - repeatable, not secret
    found: Counter[tuple[str, str, str]] = Counter()
    kinds = list(DAMAGES)
    for number in numbers:
        kind = kinds[number % len(kinds)]
        damaged = sample.put_together(DAMAGES[kind](sample.coded, sample.first, dice))
        found[sample.syntax, kind, outcome_of(damaged, healthy, scores, engine_name)] += 1
    return found


def print_table(title: str, found: Counter[tuple[str, str, str]], column: int) -> None:
    """Print the outcomes by syntax (column 0) or by kind of damage (1)."""
    print(f"| {title} | damages | {' | '.join(OUTCOMES)} |\n|{' --- |' * (len(OUTCOMES) + 2)}")
    for name in dict.fromkeys(key[column] for key in found):
        counts = [sum(n for key, n in found.items() if key[column] == name and key[2] == o) for o in OUTCOMES]
        print(f"| {name} | {sum(counts)} | {' | '.join(map(str, counts))} |")
    print()


def main() -> None:
    """Damage, read and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--engine", default="", help="also look at what this engine says")
    parser.add_argument("--count", type=int, default=500, help="damages for each transfer syntax")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="the syntaxes whose names begin so")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    by_syntax: dict[str, list[Sample]] = {}
    for sample in samples():
        if sample.syntax.startswith(options.only):
            by_syntax.setdefault(sample.syntax, []).append(sample)
    found: Counter[tuple[str, str, str]] = Counter()
    for _, alike in sorted(by_syntax.items()):
        bounds = [options.count * index // len(alike) for index in range(len(alike) + 1)]
        for sample, start, end in zip(alike, bounds, bounds[1:], strict=False):
            found += damage_sample(sample, range(start, end), options.seed, options.engine)
    print_table("syntax", found, 0)
    print_table("damage", found, 1)


if __name__ == "__main__":
    main()
