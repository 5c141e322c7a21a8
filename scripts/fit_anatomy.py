"""`make anatomy-model FOREIGN=folder`: fit the network of the pixel check, and write its numbers into the package.

Learns from public radiographs (CXRBATCH_SHARED_DATA), phantoms, foreign pictures (foreign_pictures.sh) and drawings;
picture_sets.py says which of them are kept for judging. A small network that was shown both sides does better than
a model of chests alone: what makes a picture of a face unlike a chest is not what varies between chests. So that
it does not take everything unfamiliar for one side, it is also shown radiographs put together wrong, and limbs.
With `--held-out`, prints instead what passes of each library when it was fitted without that library.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.neural_network import MLPClassifier

sys.path.insert(0, str(Path(__file__).parents[1]))
from cxrbatch.intake import resemblance
from cxrbatch.intake.anatomy import RESEMBLANCE_IN_DOUBT, RESEMBLANCE_OF_A_CHEST, describe, views_inside
from cxrbatch.intake.resemblance import Network, weigh
from cxrbatch.phantom import draw_phantom, windowed
from cxrbatch.phantom.lesions import FINDINGS
from cxrbatch.records import Float32, Gray8
from scripts import anatomy_drawings as drawings, anatomy_examples as examples
from scripts.picture_sets import UNSEEN, dice_for, learned_from, libraries, read_pictures, read_small

VARIED, WRONG, LIMBS, DRAWINGS, PHANTOMS = 5, 2, 700, 1200, 150
# Those of the demo, the tests and `make pixel-check` have smaller seeds.
FIRST_PHANTOM = 1000
COMPONENTS, UNITS = 64, 32
# A strong penalty on the weights: with a two-hundredth of it, libraries that were held out pass more often.
PENALTY = 2.0


def main() -> int:
    """Write the numbers, or print the held-out figures; 2 where there is nothing to learn from."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("foreign", type=Path, help="a folder with a folder for each library")
    parser.add_argument("--held-out", action="store_true", help="judge each library by a network that never saw it")
    options = parser.parse_args()
    shared = Path(os.environ.get("CXRBATCH_SHARED_DATA", ""))
    if not (shared / "nih256").is_dir() or not options.foreign.is_dir():
        print("Needs CXRBATCH_SHARED_DATA and a folder of foreign pictures.", file=sys.stderr)
        return 2
    chests = features_of(chests_to_learn(shared))
    others = features_of(made_pictures(shared))
    seen = {name: paths for name, paths in libraries(options.foreign).items() if name not in UNSEEN}
    read = {name: [picture.display for picture in read_pictures(paths)] for name, paths in seen.items()}
    # A library may hold nothing that intake takes, such as icons.
    foreign = {name: pictures for name, pictures in read.items() if pictures}
    learned = {name: features_of(with_variants(pictures)) for name, pictures in foreign.items()}
    if options.held_out:
        print_held_out(chests, others, foreign, learned)
        return 0
    network = fit(chests, np.vstack([others, *learned.values()]))
    target = Path(resemblance.__file__).with_name(resemblance.NUMBERS)
    numbers: dict[str, Any] = {name: np.asarray(getattr(network, name), np.float16) for name in Network.__slots__}
    np.savez(target, **numbers)
    print(f"{target}: {target.stat().st_size} bytes, from {len(chests)} views of chests and "
          f"{len(others) + sum(map(len, learned.values()))} of other things")  # fmt: skip
    return 0


def chests_to_learn(shared: Path) -> list[Gray8]:
    """Return radiographs and phantoms, and each some more times as it might have come."""
    images = read_small(learned_from(shared))
    images += [
        windowed(draw_phantom(FIRST_PHANTOM + number, rows=256, columns=(256, 212, 307)[number % 3], findings=lesions))
        for number in range(PHANTOMS)
        for lesions in [() if number % 3 else (FINDINGS[number // 3 % len(FINDINGS)],)]
    ]
    varied = [
        examples.as_in_practice(image, dice_for(number * VARIED + time))
        for number, image in enumerate(images)
        for time in range(VARIED)
    ]
    return images + varied


def made_pictures(shared: Path) -> list[Gray8]:
    """Return what is no chest, made from radiographs or drawn."""
    images = read_small(learned_from(shared))
    wrong = [
        examples.put_together_wrong(image, dice_for(number * WRONG + time))
        for number, image in enumerate(images)
        for time in range(WRONG)
    ]
    limbs = [drawings.limb(dice_for(number)) for number in range(LIMBS)]
    return wrong + limbs + [drawings.drawing(dice_for(number)) for number in range(DRAWINGS)]


def with_variants(pictures: list[Gray8]) -> list[Gray8]:
    """Return foreign pictures, and each once more as a part, blurred or negative."""
    return pictures + [examples.seen_otherwise(picture, dice_for(number)) for number, picture in enumerate(pictures)]


def features_of(pictures: Iterable[Gray8]) -> Float32:
    """Return the features of all views of small images, [n,features]."""
    return np.vstack([describe(view)[2] for picture in pictures for view in (picture, *views_inside(picture))])


def fit(chests: Float32, others: Float32) -> Network:
    """Fit scaling, principal components and one hidden layer, and fold the first three into one."""
    middle, scale = chests.mean(axis=0), np.maximum(chests.std(axis=0), 0.02)
    everything = np.clip((np.vstack([chests, others]) - middle) / scale, -4, 4)
    is_chest = np.arange(len(everything)) < len(chests)
    components = PCA(COMPONENTS, random_state=0).fit(everything)
    reduced = components.transform(everything)
    size = reduced.std()
    layers = MLPClassifier((UNITS,), alpha=PENALTY, max_iter=60, random_state=0).fit(reduced / size, is_chest)
    first = components.components_.T @ layers.coefs_[0] / size
    bias = layers.intercepts_[0] - components.mean_ @ first
    return Network(middle, scale, first, bias, layers.coefs_[1][:, 0], float(layers.intercepts_[1][0]))


def print_held_out(
    chests: Float32, others: Float32, foreign: dict[str, list[Gray8]], learned: dict[str, Float32]
) -> None:
    """Print how many pictures of each library pass a network that saw all other libraries."""
    print("| library | pictures | refused | flagged | pass | pass in % |\n| --- | --- | --- | --- | --- | --- |")
    for name, pictures in foreign.items():
        network = fit(chests, np.vstack([others, *(found for other, found in learned.items() if other != name)]))
        odds = np.array([max(weigh(view, network) for view in features_of([picture])) for picture in pictures])
        refused, passed = int((odds < RESEMBLANCE_IN_DOUBT).sum()), int((odds >= RESEMBLANCE_OF_A_CHEST).sum())
        flagged = len(odds) - refused - passed
        print(
            f"| {name} | {len(odds)} | {refused} | {flagged} | {passed} | {100 * passed / len(odds):.1f} |", flush=True
        )


if __name__ == "__main__":
    sys.exit(main())
