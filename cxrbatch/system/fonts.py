"""Which characters the fonts of this machine can show: a PDF has a box, or nothing, where none of them can.

Asked of Fontconfig, by which Pango and so WeasyPrint choose fonts, at the first character beyond Latin: it takes 8 ms
of a core once a process, and a name in Latin letters nothing.
"""

from __future__ import annotations

import ctypes
import re
import unicodedata
from collections.abc import Callable
from functools import cache, lru_cache

# Any font that a report can be printed with has the Latin letters, and the signs that a report itself uses.
_BEYOND_LATIN = re.compile("[^\x00-\u024f\u2000-\u206f\u2212\u25b2]")
# Controls, format characters and spaces have no glyph to miss; nor has what only selects another form.
_WITHOUT_GLYPH = {"Cc", "Cf", "Cs", "Zs", "Zl", "Zp"}
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")

SCRIPTS: dict[str, tuple[str, str]] = {
    "Greek": ("Αθήνα", "fonts-dejavu-core"),
    "Cyrillic": ("Иванов", "fonts-dejavu-core"),
    "Hebrew": ("כהן", "fonts-noto-core"),
    "Arabic": ("محمد", "fonts-noto-core"),
    "Devanagari": ("शर्मा", "fonts-noto-core"),
    "Thai": ("สมชาย", "fonts-noto-core"),
    "Chinese": ("張偉张伟", "fonts-noto-cjk"),
    "Japanese": ("山田やまだヤマダ", "fonts-noto-cjk"),
    "Korean": ("김민준", "fonts-noto-cjk"),
}
"""Scripts in which many patients' names are written, letters of each, and the Debian package that can show them."""


def missing_glyphs(text: str) -> str:
    """Return the characters of a text that no font of this machine has, each once, sorted; '' where it is not known."""
    beyond = {*_BEYOND_LATIN.findall(text)} if not text.isascii() else set()
    return "".join(sorted(character for character in beyond if not _is_shown(character)))


def with_codes(text: str) -> str:
    r"""Return a text with \uNNNN or \UNNNNNNNN in place of each character that no font of this machine has."""
    missing = missing_glyphs(text)
    return text.translate({ord(character): _code(character) for character in missing}) if missing else text


def scripts_without_font() -> dict[str, str]:
    """Return the scripts that no font here can show, each with the Debian package that has one.

    Raises:
        OSError: Fontconfig is not here.
    """
    _open_fontconfig()
    return {script: package for script, (letters, package) in SCRIPTS.items() if missing_glyphs(letters)}


def _code(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


@lru_cache(maxsize=8192)
def _is_shown(character: str) -> bool:
    if unicodedata.category(character) in _WITHOUT_GLYPH or _SELECTORS.match(character):
        return True
    try:
        return _knows()(ord(character))
    except OSError:  # without Fontconfig no PDF is printed, and nobody knows which fonts there are
        return True


class _FontSet(ctypes.Structure):
    """FcFontSet of fontconfig.h."""

    _fields_ = (("nfont", ctypes.c_int), ("sfont", ctypes.c_int), ("fonts", ctypes.POINTER(ctypes.c_void_p)))


def _open_fontconfig() -> ctypes.CDLL:
    library = ctypes.CDLL("libfontconfig.so.1")
    library.FcPatternCreate.restype = library.FcObjectSetCreate.restype = ctypes.c_void_p
    library.FcObjectSetAdd.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.FcFontList.argtypes = [ctypes.c_void_p] * 3
    library.FcFontList.restype = ctypes.POINTER(_FontSet)
    library.FcPatternGetCharSet.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p]
    library.FcCharSetHasChar.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    return library


@cache
def _knows() -> Callable[[int], bool]:
    """Return what tells whether any font has a code point; the list of fonts stays for as long as the process.

    Raises:
        OSError: Fontconfig is not here.
    """
    library = _open_fontconfig()
    wanted = library.FcObjectSetCreate()
    library.FcObjectSetAdd(wanted, b"charset")
    found = library.FcFontList(None, library.FcPatternCreate(), wanted)
    if not found:
        raise OSError("Fontconfig lists no fonts")
    charsets = []
    for number in range(found.contents.nfont):
        charset = ctypes.c_void_p()
        if library.FcPatternGetCharSet(found.contents.fonts[number], b"charset", 0, ctypes.byref(charset)) == 0:
            charsets.append(charset.value)
    return lambda code: any(library.FcCharSetHasChar(charset, code) for charset in charsets)
