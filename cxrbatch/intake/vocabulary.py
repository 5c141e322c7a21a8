"""What the words and codes of a header name: a chest or another part of the body, a frontal or another view, an animal.

The words are those that technologists and equipment write into Body Part Examined, View Position and the
descriptions, in the languages of Europe and East Asia; accents and case do not count.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

# Stems: THORA is in thorax, thoracique, thoracal; a word that begins with one of them names the chest.
_CHEST_STEMS = (
    *("CHEST", "CXR", "THORA", "TORAX", "TORAC", "LUNG", "PULM", "POUMON", "POLMON", "BRUSTKORB"),
    *("KEUHKO", "MELLKAS", "HRUDNIK", "PLUCA", "PIERSIOW", "AKCIGER", "ΘΩΡΑΚ", "ГРУДН", "ЛЕГК", "ОГК"),
)
# Scripts without spaces between words: anywhere in the text.
_CHEST_SIGNS = ("胸", "흉부", "صدر", "חזה")
# The thoracic spine is no chest image, and has the word for it in its name.
_SPINE_STEMS = (
    "SPINE",
    "SPINAL",
    "VERTEB",
    "WIRBEL",
    "BRUSTWIRBEL",
    "HALSWIRBEL",
    "LENDENWIRBEL",
    "COLUMN",
    "COLONN",
    "RACHIS",
    "TSPINE",
    "THORACOLUMB",
    "THORAKOLUMB",
)
_OTHER_STEMS = (
    *_SPINE_STEMS,
    *("ABDOM", "PELV", "SKULL", "CRANI", "CRAN", "SCHADEL", "SCHEDEL", "SINUS", "FACIAL", "MANDIB", "DENTAL", "TEETH"),
    *("MAMMO", "BREAST", "HAND", "FINGER", "WRIST", "HANDGELENK", "POIGNET", "POLSO", "FOREARM", "ELBOW", "ELLENBOGEN"),
    *("ELLEBOOG", "GOMITO", "SHOULDER", "SCHULTER", "SCHOUDER", "EPAULE", "HOMBRO", "OMBRO", "SPALLA", "HUMER"),
    *("CLAVIC", "SCAPULA", "STERN", "RIBS", "HIP", "HUFT", "HUEFT", "HEUP", "HANCHE", "CADERA", "BECKEN", "BEKKEN"),
    *(
        "BASSIN",
        "BACINO",
        "FEMUR",
        "OBERSCHENKEL",
        "KNEE",
        "KNIE",
        "GENOU",
        "RODILLA",
        "JOELHO",
        "GINOCCHIO",
        "PATELLA",
    ),
    *("TIBIA", "FIBULA", "UNTERSCHENKEL", "ANKLE", "SPRUNGGELENK", "ENKEL", "CHEVILLE", "TOBILLO", "TORNOZELO"),
    *("CAVIGLIA", "FOOT", "FUSS", "TOES", "CALCAN", "EXTREMIT"),
)
_OTHER_WORDS = {"BWS", "HWS", "LWS", "KUB", "LEG", "ARM", "HEAD", "NECK", "MANO", "PIED", "VOET"}
_FRONTAL_WORDS = {
    *("PA", "AP", "FRONTAL", "FRONTALE", "FRONT", "FACE", "FRENTE"),
    *("ANTEROPOSTERIOR", "POSTEROANTERIOR", "VOORACHTERWAARTS", "正面", "正位"),
}
# Lateral, decubitus and oblique (PS3.3 C.8.1.2.1 and C.8.11.5.1.1), as equipment abbreviates and spells them.
_OTHER_VIEW_WORDS = {
    *("LATERAL", "LATERALE", "LAT", "LL", "RL", "LLAT", "RLAT", "LATL", "LATR", "PROFIL", "PERFIL", "SEITLICH"),
    *("SAGITTAL", "ZIJDELINGS", "BOCZNE", "БОКОВАЯ", "側面", "侧位"),
    *("LLD", "RLD", "LLDECUB", "RLDECUB", "DECUB", "DECUBITUS", "RLL", "LLL"),
    *("LLO", "RLO", "LAO", "RAO", "LPO", "RPO", "OBL", "OBLIQUE", "AXIAL", "TANGENTIAL"),
    *("CC", "MLO", "ML", "LM", "LMO", "XCCL", "SWIMMERS"),
}
# PS3.16 CID 4010 "DX View", in SNOMED CT and in the SNOMED RT codes of older equipment.
_FRONTAL_CODES = {"399348003", "R-10206", "272479007", "R-10214", "R-40888", "399033003", "R-10202"}
_OTHER_VIEW_CODES = {
    *("399067008", "R-102CD", "399173006", "R-10236", "399198007", "R-10232", "399352003", "R-10228"),
    *("399260004", "R-10224", "399182000", "R-102C1", "399184004", "R-10238", "399236003", "R-10234"),
    *("399135007", "R-10220", "399356000", "R-40985", "399006002", "R-10212", "399038007", "R-10210"),
    *("399312000", "R-10208", "399059000", "R-10216", "399061009", "R-10241", "399110001", "R-102C2"),
    *("399162004", "R-10242", "399368009", "R-10226", "30730003", "G-A145"),
}
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
_NO_SPECIES = {"", "UNKNOWN", "UNSPECIFIED", "OTHER", "NONE", "N A", "NA", "NOT APPLICABLE", "UNDEFINED"}
# A child's parent may be responsible, too; these answer for animals only.
_KEEPERS = {"OWNER", "VETERINARIAN", "BREEDER"}
# Words that people's radiographs have, too, are left out: CAT (a scan), BOVINE and PORCINE (valves), DORSOVENTRAL.
_ANIMAL_STEMS = ("VETERINAR", "CANINE", "FELINE", "EQUINE", "CANIS", "FELIS", "EQUUS", "TIERARZT", "TIERKLINIK")
_ANIMAL_WORDS = {
    *("DOG", "DOGS", "PUPPY", "KITTEN", "HORSE", "FOAL", "RABBIT", "FERRET"),
    *("HUND", "KATZE", "PFERD", "CHIEN", "CHEVAL", "PERRO", "GATO", "CABALLO", "GATTO", "CAVALLO", "HOND", "PAARD"),
}


class Named(Enum):
    """What words name."""

    NOTHING = "nothing"
    WANTED = "wanted"
    OTHER = "other"
    BOTH = "both"


def words(text: str) -> list[str]:
    """Split text into upper-case words without accents.

    "AP_ERECT" is two words; "postero-anterior" is POSTEROANTERIOR; "p.a." and "a.-p." are PA and AP.
    """
    decomposed = unicodedata.normalize("NFKD", text.upper())
    plain = "".join(sign for sign in decomposed if not unicodedata.combining(sign))
    joined = re.sub(r"\b([AP])[./]-?([AP])\b\.?", r"\1\2", plain.replace("O-", "O"))
    return re.findall(r"[^\W\d_]+", unicodedata.normalize("NFKC", joined))


def name_body_part(text: str, further: Iterable[str] = ()) -> Named:
    """Tell whether text names the chest, another part of the body, or both; `further` words name a chest too."""
    found = words(text)
    wanted = [word for extra in further for word in words(extra)]
    has_other = any(word in _OTHER_WORDS or word.startswith(_OTHER_STEMS) for word in found)
    is_spine = any(word.startswith(_SPINE_STEMS) for word in found)
    has_chest = any(word.startswith(_CHEST_STEMS) for word in found if not word.startswith(_SPINE_STEMS))
    has_chest = (has_chest and not is_spine) or any(sign in text for sign in _CHEST_SIGNS)
    return _named(has_chest or any(word in wanted for word in found), has_other)


def name_view(text: str) -> Named:
    """Tell whether text names a frontal view, another one, or both ("chest PA and lateral")."""
    found = set(words(text))
    return _named(bool(found & _FRONTAL_WORDS), bool(found & _OTHER_VIEW_WORDS))


def name_view_code(code: str) -> Named:
    """Tell what a code value of View Code Sequence stands for."""
    return _named(code in _FRONTAL_CODES, code in _OTHER_VIEW_CODES)


def _named(wanted: bool, other: bool) -> Named:
    if wanted:
        return Named.BOTH if other else Named.WANTED
    return Named.OTHER if other else Named.NOTHING


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
    named = [stated for text in facts.species if (stated := " ".join(words(text))) not in _NO_SPECIES]
    if set(facts.codes) & _HUMAN_CODES or any(_HUMAN_WORDS & set(stated.split()) for stated in named):
        return False
    marked = any(" ".join(words(mark)) not in _NO_SPECIES for mark in facts.marks)
    if named or any(facts.codes) or marked or facts.responsible.strip().upper() in _KEEPERS:
        return True
    said = {word for text in descriptions for word in words(text)}
    return bool(said & _ANIMAL_WORDS) or any(word.startswith(_ANIMAL_STEMS) for word in said)
