"""What a message may take while it comes (PS3.8 annex E): so much memory, and the room that the disk has.

pynetdicom gathers a command in memory, in however many fragments it comes. Where an object cannot be written it ends
the association, so that the sender never hears why, and what was written stays. Here a message has a length, and what
there is no room for is read to its end, kept nowhere, and answered as any other object.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from pynetdicom.pdu_primitives import P_DATA

# A request to store has 300 bytes; nothing but that has data here.
_MOST_BYTES = 1 << 16
_LOOK_EVERY = 1 << 24
_IS_COMMAND = 0x01  # PS3.8 E.2


def bound(provider: Any, has_room: Callable[[], bool]) -> None:
    """Let an association's messages take no more than they may.

    Args:
        provider: an association's DIMSE service provider of pynetdicom, before its first message.
        has_room: tells whether the disk has as much left as is to stay free.
    """
    provider.receive_primitive = _Fragments(provider, has_room).receive


class _Fragments:
    """The fragments of one association's messages."""

    def __init__(self, provider: Any, has_room: Callable[[], bool]) -> None:
        self._provider, self._has_room = provider, has_room
        self._receive = provider.receive_primitive
        self._unlooked = 0

    def receive(self, primitive: P_DATA) -> None:
        """Take what came in one PDU.

        Raises:
            ValueError: a message is longer than any is.
            OSError: there is not even room for a file.
        """
        for item in primitive.presentation_data_value_list:
            part, one = P_DATA(), cast("Any", list(item))  # it takes no tuple, whatever its annotation says
            part.presentation_data_value_list = [one]
            try:
                self._receive(part)
            except OSError:
                if item[1][0] & _IS_COMMAND:
                    raise
                self._give_up()
                self._receive(part)
            self._look(len(item[1]))

    def _look(self, came: int) -> None:
        """See after each fragment how much there is of a message that is not whole yet."""
        message = self._provider.message
        if message is None:
            self._unlooked = 0
            return
        if max(message.encoded_command_set.tell(), message.data_set.tell()) > _MOST_BYTES:
            raise ValueError("a message is longer than any is")
        self._unlooked += came
        if self._unlooked > _LOOK_EVERY:
            self._unlooked = 0
            if message._data_set_file is not None and not self._has_room():
                self._give_up()

    def _give_up(self) -> None:
        message = self._provider.message
        if not isinstance(message._data_set_file, _Nowhere):
            message._data_set_file = _Nowhere(message._data_set_file)


class _Nowhere:
    """Takes the place of the file of an object for which there is no room."""

    def __init__(self, began: Any) -> None:
        self.name, self.file = began.name, self
        with suppress(OSError):  # what it still wanted to write has no room either
            began.close()
        Path(self.name).unlink(missing_ok=True)

    def write(self, _: bytes) -> None:
        """Keep nothing."""

    def flush(self) -> None:
        """Keep nothing."""

    def close(self) -> None:
        """Keep nothing."""
