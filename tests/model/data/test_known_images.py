"""A model's patients are found in other data, and nobody's name can be read in what it carries."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from cxrbatch.model.data.image_facts import PatientFinder
from cxrbatch.model.data.known_images import KnownImages, KnownPart, recognise_patients, recognise_pictures, remember
from cxrbatch.model.data.labelled import LabelledImages, Sample, count_patients, describe_patients
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.data.splits import check_patients, split_data


def sample(
    patient: str = "", *, issuer: str = "", split: str = "train", name: str = "a.png", group: str = ""
) -> Sample:
    return Sample(Path("/d") / name, split, (0.0,), patient_id=patient, issuer=issuer, group=group)


def learn(*samples: Sample) -> KnownImages:
    images = LabelledImages(Path("/d"), ("A",), samples)
    return remember(images, [f"{at:064x}" for at in range(len(samples))])


def knows(known: KnownImages, asked: Sample) -> bool:
    return bool(recognise_patients(known, "train", [asked])[0])


@pytest.mark.parametrize(
    ("learned", "asked", "same"),
    [
        (sample("00000150"), sample("150"), True),
        (sample("ABC-12"), sample("abc-12 "), True),
        (sample("1510"), sample("151"), False),
        (sample("0150", issuer="north"), sample("150", issuer="north"), True),
        (sample("150", issuer="north"), sample("150", issuer="south"), False),
        (sample("150", issuer="north"), sample("150"), True),
        (sample("150"), sample("150", issuer="south"), True),
        (sample(""), sample(""), False),
        (sample("000"), sample("00"), False),
    ],
)
def test_a_patient_is_known_by_id_and_issuer(learned: Sample, asked: Sample, *, same: bool) -> None:
    assert knows(learn(learned), asked) is same


def test_parts_are_told_apart_and_pictures_known() -> None:
    known = learn(sample("p1"), sample("p2", split="val"), sample(name="b.png"))
    assert not knows(known, sample("p2"))
    assert recognise_patients(known, "val", [sample("p2"), sample("p1")]).tolist() == [True, False]
    assert recognise_pictures(known, "train", [f"{at:064x}" for at in range(4)]).tolist() == [True, False, True, False]
    assert {name: part.of_unknown for name, part in known.parts.items()} == {"train": 1, "val": 0}
    assert not recognise_patients(known, "test", [sample("p1")]).any()


def test_what_is_stored_names_nobody_and_differs_between_models() -> None:
    one, other = learn(sample("Doe^John"), sample("12345678")), learn(sample("Doe^John"), sample("12345678"))
    stored = json.dumps(asdict(one))
    assert "doe" not in stored.casefold()
    assert "12345678" not in stored
    digests, others = (
        {base64.b64decode(known.parts["train"].patients)[at : at + 8] for at in range(0, 32, 8)}
        for known in (one, other)
    )
    assert len(digests) == 4  # two patients, each with and without an issuer
    assert not digests & others
    assert len(bytes.fromhex(one.key)) == 32
    assert KnownImages(one.key, other.parts).parts != one.parts
    assert not knows(KnownImages(one.key, other.parts), sample("12345678"))


@pytest.mark.parametrize("packed", ["AAAA", "no base64!"])
def test_damaged_digests_are_refused(packed: str) -> None:
    with pytest.raises(ValueError, match=r"cut off|base64|Base64"):
        KnownImages("ab" * 32, {"train": KnownPart(packed)}).require_sound()


@pytest.mark.parametrize(
    ("names", "group"),
    [
        (
            ("1-s2.0-S0929664620300449-gr2_lrg-a.jpg", "1-s2.0-S0929664620300449-gr3_lrg-d.jpg"),
            "1-s2.0-s0929664620300449",
        ),
        (("1-s2.0-S1684118220300682-main.pdf-002-a1.jpg",), "1-s2.0-s1684118220300682"),
        (("ciaa199.pdf-001-a.jpg", "ciaa199.pdf-001-c.jpg"), "ciaa199"),
        (("41591_2020_819_Fig1_HTML.webp-day10.jpg", "41591_2020_819_Fig1_HTML.webp-day5.jpg"), "41591_2020_819"),
        (("all14238-fig-0001-m-b.jpg", "all14238-fig-0002-m-f.jpg"), "all14238"),
        (("ryct.2020200034.fig5-day0.jpg", "ryct.2020200034.fig2.jpg"), "ryct.2020200034"),
        (("nejmoa2001191_f1-PA.jpeg", "nejmoa2001191_f3-L.jpeg"), "nejmoa2001191"),
        (("kjr-21-e24-g001-l-a.jpg", "kjr-21-e24-g002-l-b.jpg"), "kjr-21-e24"),
        (("covid-19-pneumonia-15-L.jpg", "covid-19-pneumonia-15-PA.jpg"), "covid-19-pneumonia-15"),
        (("IM-0115-0001.jpeg", "IM-0115-0002.jpeg"), "im-0115"),
        (("NORMAL2-IM-0376-0001-0002.jpeg", "NORMAL2-IM-0376-0001.jpeg"), "normal2-im-0376"),
        (("00000150_002.png", "01E392EE-69F9-4E33-BFCE-E5C968654078.jpg", "view1_frontal.jpg", "figure.png"), ""),
    ],
)
def test_figures_of_one_publication_belong_together(names: tuple[str, ...], group: str) -> None:
    assert {PatientFinder().find_group(Path(name)) for name in names} == {group}
    assert PatientFinder(r"(\d+)").find_group(Path(names[0])) == ""


def test_auntminnies_panels_belong_together() -> None:
    panels = [f"auntminnie-{panel}-2020_01_28_23_51_6665_2020_01_28_Vietnam_coronavirus.jpg" for panel in "abcd"]
    (group,) = {PatientFinder().find_group(Path(name)) for name in panels}
    assert group.startswith("2020_01_28")


@pytest.mark.parametrize(
    ("path", "patient"),
    [
        ("normal/IM-0115-0001.jpeg", ""),
        ("files/p10/p10000032/s50414267/02aa804e.jpg", "p10000032"),
        ("IM-scan.png", ""),
    ],
)
def test_more_collections_name_their_patients_in_paths(path: str, patient: str) -> None:
    assert PatientFinder().find(Path(path)) == patient


def test_a_publication_stays_in_one_part_and_is_refused_in_two() -> None:
    # Two labels, so that dealing would tear the figures apart to even them out.
    figures = [Sample(Path(f"/d/f{at}.png"), "", (float(at % 2),), group="paper") for at in range(6)]
    others = [Sample(Path(f"/d/o{at}.png"), "", (float(at % 2),)) for at in range(30)]
    images = split_data(LabelledImages(Path("/d"), ("A",), (*figures, *others)), DataOptions(val_fraction=0.3))
    assert len({each.split for each in images.samples if each.group}) == 1
    torn = LabelledImages(Path("/d"), ("A",), (sample(group="x"), sample(group="x", split="val", name="b.png")))
    with pytest.raises(Exception, match="Publications with figures in two parts: 1"):
        check_patients(torn, allow_leak=False)
    assert len(check_patients(torn, allow_leak=True).leaks) == 1


def test_images_of_unknown_patients_are_no_patients() -> None:
    samples = [sample("a"), sample("a", name="2"), sample("b"), sample(name="3"), sample(group="g", name="4")]
    assert count_patients(samples) == (2, 2)
    assert describe_patients(samples) == "2 patients and 2 images of unknown ones"
    assert describe_patients(samples[:3]) == "2 patients"
    assert describe_patients(samples[3:]) == "unknown patients"
