"""The text format of Prometheus, version 0.0.4: gauges, and what is told as labels of a 1.

https://prometheus.io/docs/instrumenting/exposition_formats. Written here, since every run writes it, also one with
nothing to do: the client library of Prometheus loads a web server first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]


class PrometheusText:
    """Metrics, one after the other."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, name: str, what: str, value: float) -> None:
        """Add a gauge; `what` is its help."""
        self.add_series(name, what, [({}, value)])

    def add_info(self, name: str, what: str, labels: Labels) -> None:
        """Add facts in words: labels of a gauge that is 1. Its name gets `_info` at its end."""
        self.add_series(f"{name}_info", what, [(labels, 1)])

    def add_series(self, name: str, what: str, series: Iterable[tuple[Labels, float]]) -> None:
        """Add a gauge of several series; label names are ours, their values may hold anything."""
        self._lines += [f"# HELP {name} {_escaped(what)}", f"# TYPE {name} gauge"]
        for labels, value in series:
            pairs = ",".join(f'{label}="{_quoted(text)}"' for label, text in sorted(labels.items()))
            self._lines.append(f"{name}{{{pairs}}} {float(value)}" if pairs else f"{name} {float(value)}")

    def __str__(self) -> str:
        return "".join(f"{line}\n" for line in self._lines)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"')
