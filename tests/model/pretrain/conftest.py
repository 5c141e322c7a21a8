"""A network of few weights for every test of pretraining: most ask how it goes, not what is learned."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cxrbatch.model.network import architectures
from tests.factories.model import build_tiny_resnet


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    """Let "tiny" name an architecture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(architectures._ARCHITECTURES, "tiny", architectures._Architecture(build_tiny_resnet))
        yield
