"""Synthetic chest radiographs with known lesions, for the demo and the tests. Start at `draw_phantom`."""

from cxrbatch.phantom.dicom import TRANSFER_SYNTAXES, PhantomIdentity, write_phantom_dicom
from cxrbatch.phantom.draw import Phantom, draw_lateral, draw_phantom
from cxrbatch.phantom.lesions import FINDINGS
from cxrbatch.phantom.pictures import windowed, write_phantom_png, write_training_set
from cxrbatch.phantom.studies import DemoImage, DemoStudy, write_demo_studies, write_truth

__all__ = [
    "FINDINGS",
    "TRANSFER_SYNTAXES",
    "DemoImage",
    "DemoStudy",
    "Phantom",
    "PhantomIdentity",
    "draw_lateral",
    "draw_phantom",
    "windowed",
    "write_demo_studies",
    "write_phantom_dicom",
    "write_phantom_png",
    "write_training_set",
    "write_truth",
]
