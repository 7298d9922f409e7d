"""Where tables are printed."""

from rich.console import Console

LOG_WIDTH = 120


def console() -> Console:
    """Return the terminal, or a log that is wide enough for tables."""
    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=LOG_WIDTH)
