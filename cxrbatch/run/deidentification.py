"""What --deidentify leaves of a file: its header without anybody's identity, and sentences that quote nothing.

Attributes that the Basic Application Level Confidentiality Profile removes (PS3.15 table E.1-1) are left empty; UIDs
become others, and who the patient is becomes hashes, both with a key that each output folder has for itself. Codes
stay only where they are terms that are known here, since a file may have anything in their place. Input paths stay:
they are the names of rows.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from cxrbatch.errors import Reason, UsageError
from cxrbatch.intake.patient import identify, seal
from cxrbatch.intake.vocabulary import Named, name_body_part
from cxrbatch.pages.wording import REASON_SENTENCES
from cxrbatch.records import Header, IndexedFile, Rejection
from cxrbatch.system import durable

KEY_FILE = ".cxrbatch.key"
KEY_MODE = 0o600
_KEY = re.compile("[0-9a-f]{64}")


def _terms(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


# Defined terms of PS3.3: Modality (C.7.3.1.1.1), Photometric Interpretation (C.7.6.3.1.2) and View Position
# (C.8.1.2.1, C.8.7.10.1.1, C.8.11.5.1); and the parts of PS3.16 annex L that radiographs are taken of.
_MODALITIES = _terms(
    "AR ASMT AU BDUS BI BMD CR CT DG DMS DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT IVUS KER KO LEN "
    "LS MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PLAN PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTINTENT "
    "RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SC SEG SM SMR SR SRF STAIN TG US VA VF XA XC"
)
_PHOTOMETRIC = frozenset(
    {"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "XYB", "YBR_FULL", "YBR_FULL_422"}
    | {"YBR_PARTIAL_420", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT"}
)
_VIEWS = _terms("AP PA LL RL LAT LATERAL RLD LLD RLO LLO LAO RAO LPO RPO CC MLO ML LM FB SIO AX")
_BODY_PARTS = _terms(
    "CHEST ABDOMEN ABDOMENPELVIS ANKLE ARM BREAST CALCANEUS CALF CERVICALSPINE CSPINE CLAVICLE COCCYX ELBOW "
    "EXTREMITY FEMUR FINGER FOOT FOREARM HAND HEAD HIP HUMERUS JAW KNEE LEG LSPINE LUMBARSPINE MANDIBLE MAXILLA "
    "NECK ORBIT PELVIS RIB RIBS SACRUM SCAPULA SHOULDER SINUS SKULL SPINE SSPINE STERNUM TSPINE THIGH "
    "THORACICSPINE THUMB TIBIA TOE TRUNK WHOLEBODY WRIST ZYGOMA"
)
# What the standard itself named: a private UID tells whose equipment it was, or anything else.
_OF_THE_STANDARD = re.compile(r"1\.2\.840\.10008(\.\d{1,6}){1,8}")


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """What stands for identities in one output folder, by its secret key: the same for the same, and of no use to
    whoever lacks the key, though they may guess what was hashed."""

    key: bytes

    def __repr__(self) -> str:
        return "Pseudonyms()"

    @property
    def fingerprint(self) -> str:
        """Return what tells two keys apart and nothing more."""
        return self._digest("fingerprint", "").hex()[:16]

    def study_key(self, study_key: str) -> str:
        """Return the key of a study in this folder: the plain one is a hash that anybody can make of a known UID."""
        return self._digest("study key", study_key).hex()[:16] if study_key else ""

    def uid(self, uid: str) -> str:
        """Return another UID for this one, of the form that PS3.5 B.2 has for UUIDs."""
        return f"2.25.{uuid.UUID(bytes=self._digest('uid', uid)[:16], version=4).int}" if uid else ""

    def header(self, header: Header) -> Header:
        """Return what may be known of this header."""
        sealed = seal(identify(header), lambda field, text: self._digest(field, text).hex()[:32])
        return replace(
            header.deidentified(),
            study_instance_uid=self.uid(header.study_instance_uid),
            series_instance_uid=self.uid(header.series_instance_uid),
            sop_instance_uid=self.uid(header.sop_instance_uid),
            sop_class_uid=_of_the_standard(header.sop_class_uid),
            modality=_term(header.modality, _MODALITIES),
            body_part=_body_part(header.body_part),
            view=_term(header.view, _VIEWS),
            photometric=_term(header.photometric, _PHOTOMETRIC),
            transfer_syntax=_of_the_standard(header.transfer_syntax),
            patient_orientation=_orientation(header.patient_orientation),
            identity=sealed,
        )

    def entry(self, entry: IndexedFile) -> IndexedFile:
        """Return what the index may keep of a file."""
        rejection = entry.rejection
        return replace(
            entry,
            study_key=self.study_key(entry.study_key),
            header=self.header(entry.header),
            rejection=rejection and Rejection(rejection.reason, told(rejection.reason)),
        )

    def _digest(self, kind: str, text: str) -> bytes:
        return hmac.new(self.key, f"{kind}\0{text}".encode("utf-8", "surrogatepass"), hashlib.sha256).digest()


def told(reason: Reason) -> str:
    """Return the sentence of this reason in place of a message, which may quote the header."""
    return REASON_SENTENCES[reason]


def open_pseudonyms(out: Path) -> Pseudonyms:
    """Return the pseudonyms of an output folder, whose key is made where there is none yet.

    Raises:
        UsageError: its key is damaged.
        OSError: it cannot be read or written.
    """
    path = out / KEY_FILE
    if not path.exists():
        durable.replace_text(path, secrets.token_hex(32) + "\n", mode=KEY_MODE)
    key = path.read_text(encoding="ascii", errors="replace").strip()
    if not _KEY.fullmatch(key):
        raise UsageError(
            f"{path}: no key of cxrbatch. Put it back from a backup; or remove it, and every file that is still in "
            "INPUT is read and scored anew, under new names."
        )
    return Pseudonyms(bytes.fromhex(key))


def _term(text: str, known: Iterable[str]) -> str:
    term = text.strip().upper()
    return term if term in known else ""


def _of_the_standard(uid: str) -> str:
    return uid if _OF_THE_STANDARD.fullmatch(uid) else ""


def _orientation(text: str) -> str:
    """Return where rows and columns run to, in letters of PS3.3 C.7.6.1.1.1 and no others."""
    orientation = text.strip().upper()
    return orientation if re.fullmatch(r"[APRLHF]{1,3}\\[APRLHF]{1,3}", orientation) else ""


def _body_part(text: str) -> str:
    """Return the term for a part of the body; CHEST for whatever words say that."""
    term = re.sub(r"[ _.-]", "", text.strip().upper())
    if term in _BODY_PARTS:
        return term
    return "CHEST" if name_body_part(text) in (Named.WANTED, Named.BOTH) else ""
