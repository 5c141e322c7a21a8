"""Pillow, as intake wants it: the settings that it has for the whole process, in one place."""

from __future__ import annotations

from PIL import Image, ImageFile

# The limit on pixels is in the settings and checked before Pillow sees a file; its own would warn, or raise earlier.
Image.MAX_IMAGE_PIXELS = None


def refuse_cut_images() -> None:
    """Let Pillow raise on images that are cut off or damaged: to be called before each that it decodes.

    WeasyPrint tells it, for the whole process, to take what it gets; the worker that prints a report is the
    one that decodes the next radiograph.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False
