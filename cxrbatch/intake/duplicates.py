"""Which decoded images of a study are scored, and which are refused as duplicates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from cxrbatch.errors import Flag, Reason
from cxrbatch.records import PreparedImage, RefusedImage


def settle_duplicates(
    images: Sequence[tuple[str, PreparedImage]],
) -> tuple[list[tuple[str, PreparedImage]], list[RefusedImage]]:
    """Decide what becomes of the images of one study that are the same, given as (path, image) in path order.

    A SOP Instance UID names one instance for ever (PS3.5 section 9). Identical copies give one result.
    Different stored pixels under one UID are refused, all of them: nobody can tell which is the image.
    The same stored pixels under a header that shows them differently (an edited copy) are each scored, and flagged.
    The same stored pixels that look the same under two UIDs, or in pictures, which have none, give one result too.
    """
    by_uid: dict[str, list[tuple[str, PreparedImage]]] = defaultdict(list)
    for path, image in images:
        by_uid[image.radiograph.header.sop_instance_uid or path].append((path, image))
    kept: list[tuple[str, PreparedImage]] = []
    refused: list[RefusedImage] = []
    for copies in by_uid.values():
        scored, others = _settle_one_uid(copies)
        kept += scored
        refused += others
    kept, copies_of_kept = _settle_same_pixels(kept)
    return kept, refused + copies_of_kept


def _settle_same_pixels(
    images: Sequence[tuple[str, PreparedImage]],
) -> tuple[list[tuple[str, PreparedImage]], list[RefusedImage]]:
    first: dict[tuple[str, str], tuple[str, PreparedImage]] = {}
    for path, image in images:
        first.setdefault((image.radiograph.stored_sha256, image.radiograph.display_sha256), (path, image))
    kept = list(first.values())
    kept_paths = {path for path, _ in kept}
    return kept, [
        RefusedImage(path, "duplicate", "", "the same pixels as another file of this study, which is scored")
        for path, _ in images
        if path not in kept_paths
    ]


def _settle_one_uid(
    copies: list[tuple[str, PreparedImage]],
) -> tuple[list[tuple[str, PreparedImage]], list[RefusedImage]]:
    distinct: dict[str, tuple[str, PreparedImage]] = {}
    for path, image in copies:
        distinct.setdefault(image.radiograph.display_sha256, (path, image))
    kept = list(distinct.values())
    # One image in two encodings has two stored hashes, but looks the same.
    if len({image.radiograph.stored_sha256 for _, image in kept}) > 1:
        message = (
            f"{len(copies)} files of this study have the same SOP Instance UID but different pixels. "
            "Remove the ones that are wrong at the source."
        )
        return [], [RefusedImage(path, "rejected", Reason.CONFLICTING_DUPLICATE.value, message) for path, _ in copies]
    kept_paths = {path for path, _ in kept}
    duplicates = [
        RefusedImage(path, "duplicate", "", "identical to another file of this study")
        for path, _ in copies
        if path not in kept_paths
    ]
    return (kept if len(kept) == 1 else [(path, _flagged(image)) for path, image in kept]), duplicates


def _flagged(image: PreparedImage) -> PreparedImage:
    radiograph = image.radiograph
    return replace(image, radiograph=replace(radiograph, flags=(*radiograph.flags, Flag.DUPLICATE_UID)))
