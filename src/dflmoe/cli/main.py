"""The command line: an expected error is one sentence and an exit code, never a traceback."""

import json
import logging
import sys
from collections.abc import Mapping
from importlib import import_module, metadata
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from dflmoe.errors import DflmoeError, MissingExtraError, OptionError

COMMANDS: Mapping[str, str] = {
    "pilot": "pilot",
    "demo": "demo",
    "doctor": "doctor",
    "data": "app",
    "bench": "app",
    "site": "app",
    "federation": "app",
    "node": "app",
    "predict": "predict",
    "export": "predict.export",
    "card": "predict.show_card",
    "head": "app",
    "body": "app",
    "store": "app",
    "audit": "app",
    "page": "page",
    "report": "report",
    "privacy": "app",
}
"""Each command's name, and what it is in the module of that name, or in another that is named."""

ANYTHING = {"ignore_unknown_options": True, "allow_extra_args": True}


class Commands(TyperGroup):
    """Commands that are imported when they are asked for: none waits for what others need."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002 - typer's own click
        """Return their names, in the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401, ARG002 - likewise
        """Return a command; one whose extra is not installed says so when it is run."""
        if cmd_name not in COMMANDS:
            return None
        try:
            module, _, name = COMMANDS[cmd_name].rpartition(".")
            found = getattr(import_module(f"dflmoe.cli.{module or cmd_name}"), name)
        except ImportError as error:
            found = _lacking(error)
        if not isinstance(found, typer.Typer):
            single = typer.Typer(add_completion=False)
            single.command()(found)
            found = single
        command = typer.main.get_command(found)
        command.name = cmd_name
        return command


def _lacking(error: ImportError) -> typer.Typer:
    """Return a command that cannot be, and says what to install."""
    single = typer.Typer(add_completion=False)

    @single.command(context_settings=ANYTHING)
    def lacking() -> None:
        """Needs extras that are not installed."""
        raise MissingExtraError(
            f"this command needs {error.name}; install it with: "
            f"pip install 'dflmoe[pilot,node]', or 'dflmoe[bench]' for the bench"
        ) from error

    return single


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Federated learning without a server: hospitals lend each other light heads.",
)


@app.callback(invoke_without_command=True)
def base(
    *,
    version: Annotated[bool, typer.Option("--version", help="Say which, and stop.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="With --version: and all that a bug report needs.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --version: as JSON.")] = False,
) -> None:
    """Federated learning without a server: hospitals lend each other light heads."""
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    if version:
        typer.echo(_version(verbose=verbose, as_json=as_json))
        raise typer.Exit
    if verbose or as_json:
        raise OptionError("--verbose and --json here go with --version; add it, or leave them out")


def _version(*, verbose: bool, as_json: bool) -> str:
    """Return the version; with all that it hangs on if that is wanted."""
    from dflmoe.cli.version import about, lines  # noqa: PLC0415 - not needed to start

    found = about() if verbose else {"dflmoe": metadata.version("dflmoe")}
    if as_json:
        return json.dumps(found, indent=1)
    return lines(found) if verbose else str(found["dflmoe"])


def main() -> None:
    """Run the command line."""
    try:
        app()
    except DflmoeError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"error: {error}", style="red", markup=False
        )
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
