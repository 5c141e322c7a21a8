"""What `export` prints: what was written, and what there was not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cxrbatch.output.export.export import Exported
from cxrbatch.pages.terminal_text import literal

Say = Callable[[object], None]


def tell_export(exported: Exported, target: Path, say: Say) -> None:
    """Tell what an export has, and what is missing from it and why."""
    say(f"{exported.studies} studies, {exported.images} images" + (", de-identified" if exported.deidentified else ""))
    if exported.left_without_result:
        say(f"{exported.left_without_result} studies without a score are in studies.csv and images.csv alone")
    if exported.regions is not None:
        say(f"{exported.regions} regions and {exported.peaks} peaks without a region, all of them predicted")
    if exported.maps_not_validated:
        say(
            f"{exported.maps_not_validated} findings are left out of coco.json, for nobody has found their heatmaps to "
            "point at them; --heatmaps all takes them in"
        )
    if exported.maps is not None:
        say(f"maps of {exported.maps} images")
    if exported.images_without_maps or exported.peaks:
        say("Maps are kept by `cxrbatch run --keep-maps`, which scores again what lacks them.")
    if exported.embeddings:
        say(f"embeddings of {exported.embeddings} images")
    if exported.embeddings_damaged:
        say(f"{exported.embeddings_damaged} embeddings are not as they were kept, and are left out")
    say(literal(f"Export: {target.resolve()}"))
