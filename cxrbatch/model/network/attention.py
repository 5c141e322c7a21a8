"""Attention pooling: how much each cell of a feature map counts for each label, learned with the rest."""

from __future__ import annotations

from torch import Tensor, nn

# As in Ilse et al. 2018, section 4.2.
_HIDDEN = 128


class GatedAttention(nn.Module):
    """Weights over the cells of a feature map, a distribution of its own for each label (Ilse et al. 2018).

    a = softmax over the cells of u^T (tanh(V x_i) * sigmoid(U x_i)), equation 9 there. V and U are shared by the
    labels, u is each label's own and starts at zero, so that all cells count alike at first: a network begins as the
    same function with average pooling.
    """

    def __init__(self, channels: int, n_labels: int) -> None:
        """Build it for features of so many channels."""
        super().__init__()
        self.content = nn.Conv2d(channels, _HIDDEN, kernel_size=1)
        self.gate = nn.Conv2d(channels, _HIDDEN, kernel_size=1)
        # Without a bias: it would count for all cells alike.
        self.score = nn.Conv2d(_HIDDEN, n_labels, kernel_size=1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Return N a_i for each of the N cells of a map: [N,channels,h,w] -> float32 [N,C,h,w], mean 1 over the cells.

        The softmax is in FP32 whatever the weights are in. It is written out: an ONNX Softmax takes one axis, and a
        reshape to one would tie the graph to a batch size.
        """
        scores: Tensor = self.score(self.content(features).tanh() * self.gate(features).sigmoid()).float()
        shares = (scores - scores.amax(dim=(2, 3), keepdim=True)).exp()
        return shares / shares.mean(dim=(2, 3), keepdim=True)
