"""How a command ends when it is told to: by Ctrl-C, or by a signal that is turned into one."""

from types import FrameType

INTERRUPTED = 130
"""Exit code."""


def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal's
    """End what runs, as Ctrl-C does."""
    raise KeyboardInterrupt
