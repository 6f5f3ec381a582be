"""What one thread hands over to another: so many bytes may wait, and no more."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Closed", "Handover"]

Message = TypeVar("Message")


class Closed(Exception):  # noqa: N818  no error: the other side has gone
    """The computing side wants no more."""


class Handover(Generic[Message]):
    """A queue between two threads that counts bytes.

    Parameters
    ----------
    limit : int
        Bytes that may wait; one message waits whatever its size.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._waiting: deque[tuple[Message | BaseException | None, int]] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, message: Message | BaseException | None, size: int = 0) -> None:
        """Hand over a message, as soon as there is room for it."""
        with self._changed:
            while not self._closed and self._held and self._held + size > self._limit:
                self._changed.wait()
            if self._closed:
                raise Closed
            self._waiting.append((message, size))
            self._held += size
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Message]:
        """Take messages until None comes; an exception is raised here."""
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                message, size = self._waiting.popleft()
                self._held -= size
                self._changed.notify_all()
            if isinstance(message, BaseException):
                raise message
            if message is None:
                return
            yield message
            del message  # or a window would be kept until the next one is there

    def close(self) -> None:
        """Want no more."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
