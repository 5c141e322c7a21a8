"""From encoded frames to pixels, one file for each family of codecs. Start at `transfer_syntaxes`, which lists them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Codestream:
    """What an encoded frame says of itself; `levels` is how often JPEG 2000 halved it, 0 for the others."""

    rows: int
    columns: int
    components: int
    precision: int
    is_signed: bool = False
    levels: int = 0
