"""What this installation requires, as its own metadata say (setup.cfg wrote them), beside what is installed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

PACKAGE = "cxrbatch"
BASE = ""
"""The requirements that are no extra's."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What one extra needs: packages that are there as it needs them, with their versions, and what is wrong."""

    extra: str
    found: tuple[str, ...]
    wrong: tuple[str, ...]


def look_at_requirements() -> list[Needs]:
    """Compare what is required with what is installed: without any extra first, then per extra.

    Raises:
        PackageNotFoundError: cxrbatch runs from its sources, and was never installed.
    """
    required = [Requirement(line) for line in requires(PACKAGE) or ()]
    extras = metadata(PACKAGE).get_all("Provides-Extra") or []
    return [_compare(extra, _of_extra(required, extra)) for extra in (BASE, *extras)]


def _of_extra(required: list[Requirement], extra: str) -> Iterator[Requirement]:
    """Yield what `extra` needs on this Python and system; what is needed without it is not repeated."""
    for requirement in required:
        always = requirement.marker is None or requirement.marker.evaluate({"extra": BASE})
        with_extra = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if with_extra and always == (extra == BASE):
            yield requirement


def _compare(extra: str, required: Iterator[Requirement]) -> Needs:
    found, wrong = [], []
    for requirement in required:
        installed = _installed(requirement.name)
        if not installed:
            wrong.append(f"{requirement.name}{requirement.specifier} is not installed")
        elif not _fits(requirement, installed):
            wrong.append(f"{requirement.name} {installed} is not {requirement.specifier}")
        else:
            found.append(f"{requirement.name} {installed}")
    return Needs(extra, tuple(found), tuple(wrong))


def _installed(name: str) -> str:
    try:
        # A package whose metadata are damaged has a name and no version.
        return version(name) or "of no version"
    except PackageNotFoundError:
        return ""


def _fits(requirement: Requirement, installed: str) -> bool:
    try:
        return requirement.specifier.contains(Version(installed), prereleases=True)
    except InvalidVersion:
        return False
