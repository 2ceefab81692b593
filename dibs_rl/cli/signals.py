"""An orderly end when a signal comes."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def obeying_signals(heed: Callable[[int], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask for an end: the first one's number is given to `heed`, a second one ends at once."""
    came: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if came:
            raise SystemExit(128 + number)
        came.append(number)
        heed(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
