"""What becomes of images that claim to be the same instance."""

from __future__ import annotations

import numpy as np
import pytest

from cxrbatch.errors import Flag
from cxrbatch.intake.duplicates import settle_duplicates
from cxrbatch.records import Geometry, Header, PreparedImage, Radiograph


def image(uid: str, *, stored: str, display: str = "d") -> PreparedImage:
    grey = np.zeros((4, 4), np.uint8)
    radiograph = Radiograph(Header(sop_instance_uid=uid), grey, 4, 4, (), stored, display)
    return PreparedImage(radiograph, grey[np.newaxis], Geometry(4, 4, 4, 1.0, 1.0, 0.0, 0.0))


def test_different_instances_are_all_kept_in_order() -> None:
    images = [("a", image("1", stored="x")), ("b", image("2", stored="y"))]
    assert settle_duplicates(images) == (images, [])


def test_pictures_have_no_uid_to_be_in_conflict_about() -> None:
    images = [("a.png", image("", stored="x")), ("b.png", image("", stored="y"))]
    assert settle_duplicates(images) == (images, [])


@pytest.mark.parametrize("uids", [("", ""), ("1", "2")])
def test_the_same_pixels_under_other_uids_or_none_give_one_result(uids: tuple[str, str]) -> None:
    kept, refused = settle_duplicates([("a", image(uids[0], stored="x")), ("b", image(uids[1], stored="x"))])
    assert [path for path, _ in kept] == ["a"]
    assert [(copy.path, copy.status, copy.reason) for copy in refused] == [("b", "duplicate", "")]


def test_the_same_pixels_that_look_different_under_other_uids_are_two_images() -> None:
    images = [("a", image("1", stored="x", display="bright")), ("b", image("2", stored="x", display="dark"))]
    assert settle_duplicates(images) == (images, [])


def test_an_identical_copy_gives_one_result() -> None:
    kept, refused = settle_duplicates([("a", image("1", stored="x")), ("b", image("1", stored="x"))])
    assert [path for path, _ in kept] == ["a"]
    assert kept[0][1].radiograph.flags == ()
    assert [(copy.path, copy.status, copy.reason) for copy in refused] == [("b", "duplicate", "")]


def test_different_pixels_under_one_uid_are_all_refused() -> None:
    images = [
        ("a", image("1", stored="x", display="lungs")),
        ("b", image("1", stored="y", display="other lungs")),
        ("c", image("2", stored="z")),
    ]
    kept, refused = settle_duplicates(images)
    assert [path for path, _ in kept] == ["c"]
    assert [(copy.path, copy.reason) for copy in refused] == [
        ("a", "conflicting_duplicate"),
        ("b", "conflicting_duplicate"),
    ]


def test_one_image_in_two_encodings_gives_one_result() -> None:
    kept, refused = settle_duplicates([("a", image("1", stored="native")), ("b", image("1", stored="rle"))])
    assert [path for path, _ in kept] == ["a"]
    assert [copy.status for copy in refused] == ["duplicate"]


def test_the_same_pixels_shown_differently_are_scored_and_flagged() -> None:
    kept, refused = settle_duplicates(
        [("a", image("1", stored="x", display="bright")), ("b", image("1", stored="x", display="inverted"))]
    )
    assert [path for path, _ in kept] == ["a", "b"]
    assert all(kept_image.radiograph.flags == (Flag.DUPLICATE_UID,) for _, kept_image in kept)
    assert refused == []
