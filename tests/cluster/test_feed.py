"""Which studies go where: chunks that fit a node's speed, and what becomes of those whose node died."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrbatch.cluster.feed import AHEAD_PER_NODE, CHUNK_TAKES_S, Feed, NodeLoad
from cxrbatch.cluster.mapping import mapped
from cxrbatch.errors import ConfigurationError
from cxrbatch.output.ledger.queue import StudyTask
from cxrbatch.records import Header, ImageFile, IndexedFile


def tasks(count: int) -> list[StudyTask]:
    def task(number: int) -> StudyTask:
        key = f"{number:016x}"
        return StudyTask(key, 1, (IndexedFile(ImageFile(f"{number}.png", 1, 1), key, Header(), ()),), ())

    return [task(number) for number in range(count)]


def take(feed: Feed, load: NodeLoad, nodes: int = 1) -> list[str]:
    """Give a node what it is to get now, under the next number; return the keys."""
    chunk = feed.next_chunk(load, nodes)
    if chunk:
        load.in_hand[max(load.in_hand, default=0) + 1] = chunk
    return [task.study_key[-2:] for task in chunk]


def test_a_node_has_one_chunk_at_work_and_one_beside_it_and_the_last_ones_are_small() -> None:
    drawn: list[str] = []

    def drawing() -> Iterator[StudyTask]:
        for task in tasks(100):
            drawn.append(task.study_key)
            yield task

    feed, load = Feed(drawing()), NodeLoad()
    assert [len(take(feed, load)) for _ in range(3)] == [4, 4, 0]
    assert len(drawn) <= AHEAD_PER_NODE + 8, "not all at once: whoever gives may stop at a deadline"
    sizes: list[int] = []
    while not feed.is_drained:
        load.in_hand.clear()
        load.size = 32
        sizes.append(len(take(feed, load, nodes=2)))
    assert sum(sizes) == 92
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (23, 1)


@pytest.mark.parametrize(
    ("studies_per_s", "sizes"), [(30.0, [4, 8, 16, 32, 32]), (1.2, [4, 8, 12, 12, 12]), (0.1, [4, 4, 4, 4, 4])]
)
def test_chunks_grow_to_what_takes_ten_seconds(studies_per_s: float, sizes: list[int]) -> None:
    load, found = NodeLoad(), []
    for _ in sizes:
        found.append(load.size)
        load.measure(load.size, load.size / studies_per_s)
    assert found == sizes
    assert found[-1] <= max(4, CHUNK_TAKES_S * studies_per_s)


def test_studies_whose_node_died_go_one_by_one_and_the_one_to_blame_fails_after_three() -> None:
    feed, lost = Feed(tasks(10)), NodeLoad()
    take(feed, lost), take(feed, lost)
    assert list(feed.note_death(lost.in_hand.values())) == []
    other = NodeLoad(in_hand={7: ()})
    assert take(feed, other) == [], "it has something in hand, and comes to its end first"
    other.in_hand.clear()
    assert take(feed, other) == ["00"]
    assert take(feed, other) == [], "alone"
    killers: list[str] = []
    done: list[str] = []
    for _ in range(60):
        load = NodeLoad()
        keys = take(feed, load)
        if "03" in keys:
            failed = list(feed.note_death(load.in_hand.values()))
            killers += [study.study_key[-2:] for study in failed]
            for study in failed:
                (image,) = study.refused
                assert (image.path, image.status) == ("3.png", "failed")
                assert "died, 3 times" in study.unread
        else:
            done += keys
    assert killers == ["03"]
    assert sorted(done) == ["01", "02", "04", "05", "06", "07", "08", "09"]
    assert feed.is_drained


def test_what_a_node_could_not_do_goes_to_another_at_no_blame() -> None:
    feed, broken, sound = Feed(tasks(6)), NodeLoad(), NodeLoad()
    first = take(feed, broken)
    feed.give_back(broken.in_hand.values())
    assert sorted(take(feed, sound)) == sorted(first)
    assert not sound.is_alone
    rest = take(feed, sound) + [key for _ in range(3) for key in take(feed, NodeLoad())]
    assert {*first, *rest} == {f"{number:02x}" for number in range(6)}
    assert feed.is_drained


def test_a_path_means_the_same_where_a_share_is_mounted_elsewhere() -> None:
    said = "/pacs=/mnt/pacs;/pacs/new=/fast"
    assert mapped(Path("/pacs/old/1"), said) == Path("/mnt/pacs/old/1")
    assert mapped(Path("/pacs/new/1"), said) == Path("/fast/1")
    assert mapped(Path("/pacsimile"), said) == Path("/pacsimile")
    assert mapped(Path("/x"), "") == Path("/x")
    for wrong in ("pacs=/mnt", "/pacs", "/pacs=mnt"):
        with pytest.raises(ConfigurationError, match="CXRBATCH_PATHS"):
            mapped(Path("/x"), wrong)
