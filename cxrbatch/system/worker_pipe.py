"""Frames between the main process and one worker: what is half written, or no frame at all, is told from an answer."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from enum import Enum

_HEADER = struct.Struct("!4scQQ")
_MAGIC = b"cxrw"
# Nothing that is sent comes near it; a length beyond it was never written by a worker.
_LARGEST_BYTES = 2**31
_READ_BYTES = 2**20


class FrameKind(bytes, Enum):
    """What a frame holds: to the worker its setup and tasks, from it all the others."""

    SETUP = b"s"
    TASK = b"t"
    READY = b"r"
    BEGUN = b"b"
    VALUE = b"v"
    ERROR = b"e"


class BrokenFrame(Exception):
    """What came through the pipe is no frame."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message; `number` is that of the task it is about, so that no answer is taken for another one's."""

    kind: FrameKind
    number: int = 0
    payload: bytes = b""

    def to_bytes(self) -> bytes:
        """Return the frame as it goes through the pipe."""
        return _HEADER.pack(_MAGIC, self.kind, self.number, len(self.payload)) + self.payload


class FrameReader:
    """Makes frames of bytes as they come."""

    def __init__(self) -> None:
        self._received = bytearray()

    @property
    def is_between_frames(self) -> bool:
        """Tell whether nothing has come since the last whole frame."""
        return not self._received

    def feed(self, content: bytes) -> None:
        """Take what came through the pipe."""
        self._received += content

    def next_frame(self) -> Frame | None:
        """Return the next whole frame, or None while there is none.

        Raises:
            BrokenFrame: what came is none.
        """
        if len(self._received) < _HEADER.size:
            return None
        magic, kind, number, length = _HEADER.unpack_from(self._received)
        if magic != _MAGIC or kind not in set(FrameKind) or length > _LARGEST_BYTES:
            raise BrokenFrame
        end = _HEADER.size + length
        if len(self._received) < end:
            return None
        payload = bytes(memoryview(self._received)[_HEADER.size : end])
        del self._received[:end]
        return Frame(FrameKind(kind), number, payload)


class WorkerEnd:
    """The worker's end of its pipe: waits for what comes, and for room to write."""

    def __init__(self, pipe: socket.socket) -> None:
        self._pipe, self._reader = pipe, FrameReader()
        self._identity = os.fstat(pipe.fileno())

    def receive(self) -> Frame | None:
        """Return the next frame; None once the main process is gone."""
        while (frame := self._reader.next_frame()) is None:
            content = self._pipe.recv(_READ_BYTES)
            if not content:
                return None
            self._reader.feed(content)
        return frame

    def send(self, frame: Frame) -> None:
        """Send a frame.

        Raises:
            OSError: the pipe is gone; a decoder may have closed it, and its number may be another file's by now.
        """
        if not os.path.samestat(os.fstat(self._pipe.fileno()), self._identity):
            raise BrokenPipeError
        self._pipe.sendall(frame.to_bytes())
