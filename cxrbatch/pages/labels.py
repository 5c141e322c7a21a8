"""What findings are called on pages: labels of the public data sets in the language that is spoken.

Labels are an engine's own. Those of NIH ChestX-ray14 and CheXpert, and what similar data sets call theirs, are known
here by their English names, and translated where people read them; all others stand as the engine has them. Tables,
DICOM objects and whatever else machines read keep the engine's names in every language.
"""

from __future__ import annotations

from cxrbatch.pages.language import gettext, msgid

KNOWN = frozenset(
    {
        msgid("Abnormal"),
        msgid("Airspace Opacity"),
        msgid("Atelectasis"),
        msgid("Cardiomegaly"),
        msgid("Consolidation"),
        msgid("Edema"),
        msgid("Effusion"),
        msgid("Emphysema"),
        msgid("Enlarged Cardiomediastinum"),
        msgid("Fibrosis"),
        msgid("Fracture"),
        msgid("Hernia"),
        msgid("Infiltration"),
        msgid("Lung Lesion"),
        msgid("Lung Opacity"),
        msgid("Mass"),
        msgid("No Finding"),
        msgid("Nodule"),
        msgid("Normal"),
        msgid("Pleural Effusion"),
        msgid("Pleural Other"),
        msgid("Pleural Thickening"),
        msgid("Pneumonia"),
        msgid("Pneumothorax"),
        msgid("Support Devices"),
        msgid("Tuberculosis"),
    }
)


def shown_label(name: str) -> str:
    """Return a label, with spaces for its underscores, as people read it."""
    return gettext(name) if name in KNOWN else name
