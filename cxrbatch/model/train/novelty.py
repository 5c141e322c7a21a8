"""Fitting the distance to the training images, and its threshold on the validation images. Start at `fit_novelty`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.decomposition import PCA

from cxrbatch.engine.training_facts import NoveltyFacts
from cxrbatch.model.data.dataset import PixelSet
from cxrbatch.model.network.network import SCORING_BATCH, ChestNetwork
from cxrbatch.model.network.novelty import DIRECTIONS, TrainingDistance
from cxrbatch.model.train.options import find_devices
from cxrbatch.records import Float32

MOST_IMAGES = 2000
"""More training, or validation, images than this are drawn from: they are only looked at, but that takes time."""

FEWEST_TRAINING, FEWEST_VALIDATION = 40, 10
"""With fewer images nothing is fitted: the engine then tells no distance."""

# Each direction takes its deviation from so many images at least.
_IMAGES_PER_DIRECTION = 10
FLAGGED = 0.01
"""The share of images of the same kind that is to lie beyond the threshold."""

_SEED = 0

Values = NDArray[np.float64]


def fit_novelty(
    network: ChestNetwork, train: PixelSet, validation: PixelSet, devices: str = "cpu", *, most: int = MOST_IMAGES
) -> NoveltyFacts | None:
    """Let the network tell how far images are from those that it learned from; None where these are too few.

    Training images pass once more, as they are: of more than `most`, as many drawn by a fixed seed. The same images and
    weights give the same distance.

    Args:
        network: trained, in evaluation mode, on the CPU; it gets the distance as a further output.
        train: what it learned from.
        validation: what it did not learn from: the threshold leaves one in a hundred of such images beyond it.
        devices: the training's; images pass through the first of them.
        most: of the images of either.
    """
    if len(train) < FEWEST_TRAINING or len(validation) < FEWEST_VALIDATION:
        return None
    distance = network.expect_novelty()
    features = pool_features(network, train, devices, most)
    if not np.isfinite(features).all() or not describe_features(distance, features):
        network.novelty = None
        return None
    told = measure_distances(distance, pool_features(network, validation, devices, most))
    threshold, rule = find_threshold(told)
    distance.threshold.fill_(threshold)
    return NoveltyFacts(
        training_images=len(features),
        validation_images=len(told),
        directions=int((distance.gains > 0).sum()),
        rule=rule,
        validation_flagged=float((told > threshold).mean()),
    )


@torch.inference_mode()
def pool_features(network: ChestNetwork, images: PixelSet, devices: str, most: int) -> Float32:
    """Return each image's mean feature over the cells of the last map, float32 [n,channels], n at most `most`."""
    rows = np.arange(len(images))
    if len(images) > most:
        rows = np.sort(np.random.default_rng(_SEED).choice(rows, most, replace=False))
    accelerator, places = find_devices(devices)
    device = torch.device("cuda", places[0] if isinstance(places, list) else 0) if accelerator == "gpu" else "cpu"
    network.to(device)
    batches = (rows[start : start + SCORING_BATCH] for start in range(0, len(rows), SCORING_BATCH))
    pooled = [
        network.feature_map(torch.from_numpy(np.array(images.pixels_of(batch))).to(device)).float().mean((2, 3)).cpu()
        for batch in batches
    ]
    network.cpu()
    features: Float32 = torch.cat(pooled).numpy()
    return features


def describe_features(distance: TrainingDistance, features: Float32) -> bool:
    """Set the Gaussian of pooled features, float32 [n,channels]; False where they do not differ at all."""
    if not np.ptp(features, axis=0).any():
        return False
    wanted = min(DIRECTIONS, len(features) // _IMAGES_PER_DIRECTION, features.shape[1])
    found = PCA(wanted, random_state=_SEED).fit(features.astype(np.float64))
    variances = found.explained_variance_
    used = variances > 1e-9 * variances.max()
    kept = int(used.sum())
    distance.centre.copy_(torch.from_numpy(found.mean_))
    distance.directions[:kept] = torch.from_numpy(found.components_[used]).float()
    distance.gains[:kept] = torch.from_numpy(1 / np.sqrt(variances[used])).float()
    centred = features - found.mean_
    left = centred - centred @ found.components_[used].T @ found.components_[used]
    residuals = np.linalg.norm(left, axis=1)
    # What the directions span whole leaves rounding errors: they must not be told apart.
    if residuals.std() > 1e-3 * np.sqrt(variances[used].sum()):
        distance.usual_residual.fill_(float(residuals.mean()))
        distance.residual_gain.fill_(1 / float(residuals.std(ddof=1)))
    return True


@torch.inference_mode()
def measure_distances(distance: TrainingDistance, features: Float32) -> Values:
    """Return the distances of pooled features, float32 [n,channels] -> float64 [n], in units of the threshold."""
    told: Values = distance(torch.from_numpy(features)[:, :, None, None]).double().numpy()
    return told


def find_threshold(distances: Values) -> tuple[float, str]:
    """Return the distance beyond which one in a hundred further images of the same kind is to lie, and by which rule.

    From 99 images on it is their quantile at 0.99 (n + 1), beyond which a further image lies with probability 0.01
    (Hyndman and Fan 1996, definition 6). Fewer have no such quantile: then logarithms of distances are taken for
    normal, and it is the upper end of the prediction interval of one further image (Hahn 1969): the fewer there are,
    the higher.

    Args:
        distances: of images that the network did not learn from, float64 [n], at least 2.
    """
    count = len(distances)
    if count >= round(1 / FLAGGED) - 1:
        return max(float(np.quantile(distances, 1 - FLAGGED, method="weibull")), _LEAST), "quantile"
    logs = np.log(np.maximum(distances, _LEAST))
    margin = stats.t.ppf(1 - FLAGGED, count - 1) * np.sqrt(1 + 1 / count)
    return float(np.exp(logs.mean() + margin * logs.std(ddof=1))), "log-normal"


_LEAST = 1e-6
