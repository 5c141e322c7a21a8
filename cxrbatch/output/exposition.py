"""Prometheus' text format, version 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/): gauges only.

prometheus_client writes the same; loading it loads a web server and TLS, which takes as long as a tenth of what a run
with nothing to do computes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

_IN_HELP = str.maketrans({"\\": r"\\", "\n": r"\n"})
_IN_LABEL = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
# From so many digits before the point on, Go, in which Prometheus is written, writes an exponent.
_MOST_DIGITS = 6


def gauge(name: str, what: str, series: Iterable[tuple[Mapping[str, str], float]]) -> str:
    """Return the lines of one gauge.

    Args:
        name: of letters, digits and _.
        what: the sentence that explains it.
        series: the labels of each of its values, by name, and the value; of equal labels the last value counts.
    """
    values = {tuple(sorted(labels.items())): value for labels, value in series}
    lines = [f"# HELP {name} {what.translate(_IN_HELP)}", f"# TYPE {name} gauge"]
    lines += [f"{name}{_labels(labels)} {number(value)}" for labels, value in values.items()]
    return "".join(f"{line}\n" for line in lines)


def number(value: float) -> str:
    """Return a number as Go writes it."""
    value = float(value)
    if math.isnan(value) or math.isinf(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    text = repr(value)
    digits = text.find(".")
    if value > 0 and digits > _MOST_DIGITS:
        mantissa = f"{text[0]}.{text[1:digits]}{text[digits + 1 :]}".rstrip("0.")
        return f"{mantissa}e+{digits - 1:02d}"
    return text


def _labels(labels: tuple[tuple[str, str], ...]) -> str:
    return "{" + ",".join(f'{name}="{text.translate(_IN_LABEL)}"' for name, text in labels) + "}" if labels else ""
