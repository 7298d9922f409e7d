"""``dflmoe page``: what this site's node does, in a browser."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from dflmoe.cli.interrupt import INTERRUPTED, interruptible
from dflmoe.cli.options import HOME, HomeOption
from dflmoe.cli.site import home_of
from dflmoe.errors import MissingExtraError
from dflmoe.node.home import Home

HERE = "127.0.0.1:8470"


def page(
    *,
    bind: Annotated[str, typer.Option(help="host:port; other computers need the token.")] = HERE,
    home: HomeOption = HOME,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the address as JSON, and nothing else.")
    ] = False,
) -> None:
    """Serve a page that shows this site's rounds, peers, outages and log; it only reads.

    Example: dflmoe page
    """
    here = home_of(home)
    interruptible()
    with shown_at(here, bind) as url:
        if as_json:
            typer.echo(json.dumps({"url": url}))
        else:
            Console(highlight=False, soft_wrap=True).print(f"{url}\nCtrl-C ends it.", markup=False)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


@contextmanager
def shown_at(home: Home, bind: str) -> Iterator[str]:
    """Serve the page of a site until the block ends; yields what people open.

    Raises:
        MissingExtraError: What serves pages is not installed.
        PageError: The address is malformed, taken, or none of this machine.
    """
    try:
        from dflmoe.web.serve import address_of, served  # noqa: PLC0415 - an extra of its own
    except ImportError as error:
        raise MissingExtraError(
            f"the page needs {error.name}; install it with: pip install 'dflmoe[web]'"
        ) from error
    with served(home, bind) as door:
        yield address_of(door)
