"""Whether a header speaks of an animal: the elements that PS3.3 C.7.1.1 has for them, and words of descriptions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cxrbatch.intake.vocabulary import words

# SNOMED CT, and the SNOMED RT code of older equipment.
_HUMAN_CODES = {"337915000", "L-85B00"}
_HUMAN_WORDS = {
    "HUMAN",
    "HUMANS",
    "HOMO",
    "SAPIENS",
    "MENSCH",
    "HUMAIN",
    "HUMANO",
    "HUMANA",
    "UMANO",
    "MENSELIJK",
    "ヒト",
}
_UNTOLD = {"", "UNKNOWN", "UNSPECIFIED", "OTHER", "NONE", "N A", "NA", "NOT APPLICABLE", "UNDEFINED"}
# A child's parent may be responsible, too; these answer for animals only.
_KEEPERS = {"OWNER", "VETERINARIAN", "BREEDER"}
# Words that people's radiographs have, too, are left out: CAT (a scan), BOVINE and PORCINE (valves), DORSOVENTRAL.
_ANIMAL_STEMS = ("VETERINAR", "CANINE", "FELINE", "EQUINE", "CANIS", "FELIS", "EQUUS", "TIERARZT", "TIERKLINIK")
_ANIMAL_WORDS = {
    *("DOG", "DOGS", "PUPPY", "KITTEN", "HORSE", "FOAL", "RABBIT", "FERRET"),
    *("HUND", "KATZE", "PFERD", "CHIEN", "CHEVAL", "PERRO", "GATO", "CABALLO", "GATTO", "CAVALLO", "HOND", "PAARD"),
}


@dataclass(frozen=True, slots=True)
class SpeciesFacts:
    """What a header says of the species, as text; empty where it does not say.

    `species` and `codes` are of Patient Species Description and Code Sequence; `marks` what only an animal has, a
    breed or Patient's Sex Neutered; `responsible` is Responsible Person Role.
    """

    species: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    responsible: str = ""


def is_animal(facts: SpeciesFacts, descriptions: Iterable[str] = ()) -> bool:
    """Tell whether anything says that the patient is no human being; a header that says human is believed."""
    named = [stated for text in facts.species if (stated := " ".join(words(text))) not in _UNTOLD]
    if set(facts.codes) & _HUMAN_CODES or any(_HUMAN_WORDS & set(stated.split()) for stated in named):
        return False
    marked = any(" ".join(words(mark)) not in _UNTOLD for mark in facts.marks)
    if named or any(facts.codes) or marked or facts.responsible.strip().upper() in _KEEPERS:
        return True
    said = {word for text in descriptions for word in words(text)}
    return bool(said & _ANIMAL_WORDS) or any(word.startswith(_ANIMAL_STEMS) for word in said)
