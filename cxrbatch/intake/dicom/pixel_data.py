"""The value of Pixel Data: found in the file, decoded, hashed, and searched for holes. Start at `decode_pixels`.

A hole is the bytes of a block that was lost, read as one value across whatever is there. In native pixels no decoder
can notice it, since every byte is a valid pixel. But a hole follows the order in which pixels are stored, from
somewhere in one row to somewhere in another, while what is black or white in a radiograph goes on above or below.
"""

from __future__ import annotations

import hashlib
from struct import unpack_from
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder

from cxrbatch.errors import ImageRejected, Reason
from cxrbatch.intake.codecs import Codestream
from cxrbatch.intake.codecs.jpeg2000 import reduced_size, reducible_levels
from cxrbatch.intake.codecs.transfer_syntaxes import (
    ENCAPSULATED,
    PLUGIN,
    REDUCE_OPTION,
    REFUSALS_OPTION,
    is_whole,
    read_codestream,
    register_plugin,
)
from cxrbatch.intake.dicom.dicom_file import DicomFile
from cxrbatch.intake.dicom.pixel_module import PixelModule
from cxrbatch.intake.display import Stored, mask_unused_bits

Positions = NDArray[np.int64]

_ITEM = 0xFFFEE000
_SEQUENCE_END = 0xFFFEE0DD
# A hole of a disk's sector is not told from a line that somebody drew; one of a page (4 KiB) is.
_HOLE_BYTES = 2048
_BLOCKS_IN_HOLE = 8
# So that an image that is mostly black is not copied as a whole.
_BLOCKS_AT_ONCE = 1 << 14
# Where a run of pixels is compared with the row above its start and the row below its end.
_PROBES = 32
_FEW = _PROBES // 4
# What is at least so near to the value of the run, of the range of the image, goes on there.
_NEAR = 1 / 64

register_plugin()


def encoded_pixels(dicom: DicomFile, module: PixelModule) -> bytes | memoryview:
    """Return the value of Pixel Data: native pixels without padding, or the items that hold the encoded frame."""
    assert dicom.pixel_data is not None, "check_pixel_module lets no file without pixels pass"
    start = dicom.pixel_data.offset
    if dicom.transfer_syntax not in ENCAPSULATED:
        return memoryview(dicom.body)[start : start + module.native_bytes]
    return dicom.body[start : _end_of_items(dicom.body, start)]


def decode_pixels(dicom: DicomFile, module: PixelModule, encoded: bytes | memoryview, least_px: float) -> Stored:
    """Decode the one frame.

    Args:
        dicom: the file.
        module: its checked Image Pixel module.
        encoded: what `encoded_pixels` returns.
        least_px: JPEG 2000 may be decoded at a fraction of its size, with a long side of at least that
            (`jpeg2000.ENOUGH` of what is wanted).

    Returns:
        [H,W] integers of the type that Bits Allocated and Pixel Representation say.
    """
    syntax = dicom.transfer_syntax
    level = 0
    if syntax in ENCAPSULATED:
        frame = get_frame(bytes(encoded), 0, number_of_frames=1)
        codestream = read_codestream(frame, syntax)
        if not is_whole(frame, syntax):
            raise ImageRejected(Reason.TRUNCATED_PIXELS, "the encoded frame has no end")
        if codestream is not None:
            _check_codestream(codestream, module)
            level = reducible_levels(codestream, least_px)
    refusals: list[ImageRejected] = []
    options = _decoder_options(dicom, module, level) | {REFUSALS_OPTION: refusals}
    try:
        array, _ = get_decoder(syntax).as_array(encoded, index=0, raw=True, validate=False, **options)
    except RuntimeError:
        if refusals:
            raise refusals[0] from None
        raise
    return array if syntax in ENCAPSULATED else mask_unused_bits(array, module.bits_stored, module.high_bit)


def hash_stored(dicom: DicomFile, module: PixelModule, encoded: bytes | memoryview) -> str:
    """Return the SHA-256 of the stored pixels: those of the encoded frame, or else the native bytes.

    Equal hashes mean equal pixels; equal pixels in two encodings have two hashes. Hashing what is stored and
    not what was decoded makes it independent of a reduced decoding, of the codec and of its version.
    """
    is_native = dicom.transfer_syntax not in ENCAPSULATED
    order = "little" if dicom.elements.little_endian else "big"
    shape = (module.rows, module.columns, module.bits_allocated, module.bits_stored, module.high_bit, module.is_signed)
    digest = hashlib.sha256(f"{order if is_native else dicom.transfer_syntax} {shape} ".encode())
    digest.update(encoded)
    return digest.hexdigest()


def has_hole(stored: Stored) -> bool:
    """Tell whether a long run of one value in [H,W] pixels has hardly anything near to it above and below.

    A run to the end of the image has nothing below: it may as well be a border.
    """
    columns = stored.shape[1]
    flat = np.ascontiguousarray(stored).reshape(-1)
    starts, ends = _find_runs(flat, _HOLE_BYTES // _BLOCKS_IN_HOLE // stored.dtype.itemsize)
    inside = (starts >= columns) & (ends + columns <= len(flat))
    starts, ends = starts[inside], ends[inside]
    if not len(starts):
        return False
    values = flat[starts].astype(np.int64)
    near = max(1, int(_NEAR * (int(flat.max()) - int(flat.min()))))
    spans = np.linspace(0, np.minimum(ends - starts, columns) - 1, _PROBES).astype(np.int64)
    above = np.abs(flat[starts - columns + spans].astype(np.int64) - values) <= near
    below = np.abs(flat[ends + columns - 1 - spans].astype(np.int64) - values) <= near
    return bool(((above.sum(axis=0) <= _FEW) & (below.sum(axis=0) <= _FEW)).any())


def _decoder_options(dicom: DicomFile, module: PixelModule, level: int) -> dict[str, Any]:
    """Return what pydicom's decoder wants to know of a bare buffer.

    Unused bits of native pixels are masked here, not there, to save a copy. Those of encoded ones are part of
    the signed value, but of an unsigned one they may be overshoot of a lossy codec, which must not wrap around.
    """
    is_encapsulated = dicom.transfer_syntax in ENCAPSULATED
    options = {
        "rows": reduced_size(module.rows, level),
        "columns": reduced_size(module.columns, level),
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "bits_allocated": module.bits_allocated,
        "bits_stored": module.bits_stored,
        "pixel_representation": int(module.is_signed),
        "photometric_interpretation": module.photometric,
        "pixel_keyword": "PixelData",
        "pixel_vr": dicom.pixel_data.vr if dicom.pixel_data else "OW",
    }
    if is_encapsulated:
        return options | {"decoding_plugin": PLUGIN, REDUCE_OPTION: level, "correct_unused_bits": module.is_signed}
    return options | {"view_only": True, "correct_unused_bits": False}


def _check_codestream(codestream: Codestream, module: PixelModule) -> None:
    if codestream.components != 1:
        raise ImageRejected(Reason.UNSUPPORTED_PHOTOMETRIC, f"the frame holds {codestream.components} colours")
    if (codestream.rows, codestream.columns) != (module.rows, module.columns):
        raise ImageRejected(
            Reason.INCONSISTENT_HEADER,
            f"the frame is {codestream.rows} x {codestream.columns}, the header says {module.rows} x {module.columns}",
        )
    if codestream.precision > module.bits_allocated:
        raise ImageRejected(
            Reason.INCONSISTENT_HEADER, f"{codestream.precision} bits in {module.bits_allocated} allocated ones"
        )


def _end_of_items(body: bytes, start: int) -> int:
    """Return where the encapsulated frame ends (PS3.5 A.4); a missing sequence delimiter is forgiven."""
    at = start
    while at + 8 <= len(body):
        group, element, length = unpack_from("<HHL", body, at)
        tag = group << 16 | element
        at += 8
        if tag == _SEQUENCE_END:
            return at
        if tag != _ITEM:
            raise ImageRejected(Reason.UNREADABLE_PIXELS, "the encapsulated pixel data are no sequence of items")
        at += length
    if at != len(body):
        raise ImageRejected(Reason.TRUNCATED_PIXELS, "the file ends inside its pixel data")
    return at


def _find_runs(flat: Stored, block: int) -> tuple[Positions, Positions]:
    """Return where runs of one value start and end which hold nearly as many whole blocks as a hole does."""
    blocks = flat[: len(flat) // block * block].reshape(-1, block)
    # The last column first: of an image's blocks, few are left for the comparison of the others.
    candidates = np.flatnonzero(blocks[:, 0] == blocks[:, -1])
    parts = [candidates[at : at + _BLOCKS_AT_ONCE] for at in range(0, len(candidates), _BLOCKS_AT_ONCE)]
    is_constant = [(blocks[part] == blocks[part, :1]).all(axis=1) for part in parts]
    constant = candidates[np.concatenate(is_constant)] if parts else candidates
    values = blocks[constant, 0]
    breaks = np.flatnonzero((np.diff(constant) != 1) | (values[1:] != values[:-1])) + 1
    firsts = np.concatenate(([0], breaks)).astype(np.int64)[: len(constant)]
    lasts = np.concatenate((breaks, [len(constant)])).astype(np.int64)[: len(firsts)] - 1
    is_long = lasts - firsts >= _BLOCKS_IN_HOLE - 2
    starts, ends = constant[firsts[is_long]] * block, (constant[lasts[is_long]] + 1) * block
    steps = np.arange(block)
    return starts - _count_like(flat, starts, starts[:, None] - 1 - steps), ends + _count_like(
        flat, starts, ends[:, None] + steps
    )


def _count_like(flat: Stored, starts: Positions, at: Positions) -> Positions:
    """Count for each run how many pixels, from the first position [R,N] on and in the image, are of its value."""
    like = (flat[np.clip(at, 0, len(flat) - 1)] == flat[starts][:, None]) & (at >= 0) & (at < len(flat))
    counts: Positions = np.logical_and.accumulate(like, axis=1).sum(axis=1)
    return counts
