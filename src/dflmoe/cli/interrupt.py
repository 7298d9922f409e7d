"""How a command ends when it is told to: by Ctrl-C, or by a signal that is turned into one."""

import signal
from types import FrameType

INTERRUPTED = 130
"""Exit code."""


def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal's
    """End what runs, as Ctrl-C does."""
    raise KeyboardInterrupt


def interruptible() -> None:
    """Let both signals end the command, of which a shell's background ignores one."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt)
