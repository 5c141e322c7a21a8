"""A network of few weights for every test of pretraining: most ask how it goes, not what is learned."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.factories.model import tiny_architecture


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    """Let "tiny" name an architecture."""
    with tiny_architecture():
        yield
