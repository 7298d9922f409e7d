"""Print docs/reference/cli.md: every command with its arguments and options, as the command says.

Run it as ``python scripts/cli_reference.py > docs/reference/cli.md``; a test compares the two.
"""

import os
from collections.abc import Iterator
from typing import Any

import typer

from dflmoe.cli.main import app

HEAD = """# Commands

<!-- Written by scripts/cli_reference.py; do not edit. -->

Every command says this of itself with `--help`. `--home` is the folder of a site; `DFLMOE_HOME` can
name it.
Errors end with [an exit code of their own](errors.md), a wrong option with 2, Ctrl-C with 130.
"""


def commands(command: Any, path: str, context: typer.Context) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - typer's own click
    """Yield every command below one, with what it is called by."""
    found = getattr(command, "list_commands", None)
    if found is None or getattr(command, "invoke_without_command", False):
        yield path, command
    if found is None:
        return
    for name in found(context):
        yield from commands(command.get_command(context, name), f"{path} {name}", context)


def section(path: str, command: Any) -> str:  # noqa: ANN401 - likewise
    """Return what is said of one command."""
    parameters = [p for p in command.params if p.name != "help"]
    given = [p for p in parameters if p.param_type_name == "argument"]
    usage = " ".join([path, *map(_spelt, given)])
    text = [f"## {path}", "", f"`{usage}`", "", *_paragraphs(command.help or "")]
    rows = [_row(p) for p in parameters]
    if rows:
        text += ["| argument or option | meaning | if not given |", "|---|---|---|", *rows, ""]
    return "\n".join(text)


def _spelt(argument: Any) -> str:  # noqa: ANN401 - likewise
    """Return an argument as usage spells it: in brackets if it may be left out."""
    name = f"{argument.name.upper()}{'...' if argument.nargs == -1 else ''}"
    return name if argument.required else f"[{name}]"


def _paragraphs(told: str) -> list[str]:
    """Return the help of a command; its example as a block of its own would be run by a test."""
    lines = []
    for part in told.strip().split("\n\n"):
        one = " ".join(part.split())
        lines += [f"Example: `{one[9:]}`" if one.startswith("Example: ") else one, ""]
    return lines


def _row(parameter: Any) -> str:  # noqa: ANN401 - likewise
    names = [*parameter.opts, *parameter.secondary_opts]
    if parameter.param_type_name == "argument":
        names = [parameter.name.upper()]
    told = (getattr(parameter, "help", None) or "").replace("|", "\\|")
    return f"| {', '.join(f'`{n}`' for n in names)} | {told} | {_default(parameter)} |"


def _default(parameter: Any) -> str:  # noqa: ANN401 - likewise
    if parameter.required:
        return "required"
    value = parameter.default() if callable(parameter.default) else parameter.default
    if value is None or value is False or value in ((), [], ""):
        return ""
    return "on" if value is True else f"`{value}`"


def reference() -> str:
    """Return the page."""
    root = typer.main.get_group(app)
    context = typer.Context(root)
    told = [section(path, command) for path, command in commands(root, "dflmoe", context)]
    return "\n".join([HEAD, *told])


if __name__ == "__main__":
    os.environ.pop("DFLMOE_HOME", None)
    print(reference(), end="")
