"""Two views of an image: what they show, how their agreement is measured, and that a collapse is seen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cxrbatch.model.pretrain.simsiam import SimSiam, measure_recognition, measure_spread
from cxrbatch.model.pretrain.views import SMALLEST_CROP, draw_views


def draw(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_independent_embeddings_have_a_spread_of_one_and_equal_ones_of_none() -> None:
    assert float(measure_spread(draw(512, 64))) == pytest.approx(1.0, abs=0.03)
    assert float(measure_spread(draw(1, 64).repeat(32, 1))) == pytest.approx(0.0, abs=1e-6)
    # Only the direction counts: an image of the same kind, answered louder, is no other answer.
    louder = draw(1, 64) * torch.linspace(0.5, 3, 32)[:, None]
    assert float(measure_spread(louder)) == pytest.approx(0.0, abs=1e-6)


def test_an_image_is_recognised_by_the_view_most_like_its_own() -> None:
    one = draw(8, 32)
    assert float(measure_recognition(one, one + 0.1 * draw(8, 32, seed=1))) == 1.0
    swapped = one[[1, 0, 2, 3, 4, 5, 6, 7]]
    assert float(measure_recognition(one, swapped)) == pytest.approx(6 / 8)
    assert float(measure_recognition(draw(400, 8), draw(400, 8, seed=1))) < 0.02


def test_the_loss_is_the_papers() -> None:
    torch.manual_seed(0)
    method = SimSiam(16)
    one, other = draw(12, 16, 1), draw(12, 16, 2)
    agreement = method(one, other)
    first, second = method.projector(one), method.projector(other)
    pairs = ((method.predictor(first), second), (method.predictor(second), first))
    # Algorithm 1 there: D(p, z) = -(normalised p) . (normalised z), the mean of both ways.
    by_hand = [-(nn.functional.normalize(p) * nn.functional.normalize(z)).sum(dim=1).mean() for p, z in pairs]
    torch.testing.assert_close(agreement.loss, sum(by_hand, torch.zeros(())) / 2)


def test_no_gradient_flows_into_what_is_predicted() -> None:
    torch.manual_seed(0)
    method = SimSiam(8)
    last = method.predictor[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    one, other = draw(6, 8, 1).requires_grad_(), draw(6, 8, 2).requires_grad_()
    # The predictor ignores its input, so whatever reaches the embeddings came through what is predicted.
    method(one, other).loss.backward()
    assert one.grad is not None
    assert float(one.grad.abs().max()) == 0.0


def test_views_differ_are_drawn_from_the_seed_and_stay_images() -> None:
    pixels = (torch.arange(64 * 64, dtype=torch.float32) % 251).to(torch.uint8).reshape(1, 1, 64, 64).repeat(4, 1, 1, 1)
    drawn = [draw_views(pixels, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    one, other = drawn[0]
    assert one.shape == other.shape == pixels.shape
    assert float(one.min()) >= 0
    assert float(one.max()) <= 255
    assert not torch.allclose(one, other)
    assert not torch.allclose(one[0], one[1])
    assert torch.equal(one, drawn[1][0])
    assert not torch.equal(one, drawn[2][0])


def test_a_view_shows_a_part_of_at_least_half_the_side_without_leaving_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a ramp the grey values tell which columns are seen."""
    from cxrbatch.model.pretrain import views
    from cxrbatch.model.train.augment import NONE

    monkeypatch.setattr(views, "EXPOSURE", NONE)
    ramp = torch.arange(128, dtype=torch.uint8).repeat(64, 1, 128, 1)
    seen = views.draw_views(ramp, torch.Generator().manual_seed(0))[0]
    spans = (seen.amax(dim=(1, 2, 3)) - seen.amin(dim=(1, 2, 3))) / 127
    assert float(spans.min()) >= SMALLEST_CROP - 0.02
    assert float(spans.min()) < 0.6
    assert float(spans.max()) > 0.9
    lefts, rights = seen[:, 0, 0, 0], seen[:, 0, 0, -1]
    assert float(lefts.max() - lefts.min()) > 30
    assert float(rights.max() - rights.min()) > 30
