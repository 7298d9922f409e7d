"""The command line: an expected error is one sentence and an exit code, never a traceback."""

import logging
import sys
from typing import Annotated

import typer
from rich.console import Console

from dflmoe.cli.bench import app as bench
from dflmoe.cli.pilot import pilot
from dflmoe.errors import DflmoeError, MissingExtraError

ANYTHING = {"ignore_unknown_options": True, "allow_extra_args": True}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Federated learning without a server: hospitals lend each other light heads.",
)
app.command()(pilot)
app.add_typer(bench, name="bench")
try:
    from dflmoe.cli import federation, head, node, site, store
    from dflmoe.cli.demo import demo
    from dflmoe.cli.doctor import doctor
except ImportError as error:
    LACKING = error.name

    def lacking() -> None:
        """Needs the extra ``node``."""
        raise MissingExtraError(
            f"nodes need {LACKING}; install it with: pip install 'dflmoe[node]'"
        )

    for name in ("demo", "doctor", "site", "federation", "head", "store", "node"):
        app.command(name, context_settings=ANYTHING)(lacking)
else:
    app.command()(demo)
    app.command()(doctor)
    groups = {
        "site": site,
        "federation": federation,
        "node": node,
        "head": head,
        "store": store,
    }
    for name, group in groups.items():
        app.add_typer(group.app, name=name)


def show_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - not needed to start

        typer.echo(version("dflmoe"))
        raise typer.Exit


@app.callback()
def base(
    version: Annotated[  # noqa: ARG001 - handled by its callback
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Say which.")
    ] = False,
) -> None:
    """Federated learning without a server: hospitals lend each other light heads."""
    logging.basicConfig(level=logging.ERROR, format="%(message)s")


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
