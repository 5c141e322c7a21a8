"""DICOM traffic to and from folders; pynetdicom lives here only (extra [pacs])."""

from __future__ import annotations

from importlib.util import find_spec

from cxrbatch.errors import ConfigurationError


def require_extra(module: str) -> None:
    """See that what this room needs is installed.

    Raises:
        ConfigurationError: it is not, and how to get it.
    """
    if find_spec(module) is None:
        raise ConfigurationError(f"this command needs {module}: pip install 'cxrbatch[pacs]'")
