"""``dflmoe store``: look after what a node keeps."""

from pathlib import Path
from typing import Annotated

import typer

from dflmoe.cli.options import HOME, HomeOption
from dflmoe.cli.site import home_of
from dflmoe.errors import StoreError
from dflmoe.node.store import STORE, Store

app = typer.Typer(no_args_is_help=True, help="Look after what a node keeps.")


@app.command()
def check(*, home: HomeOption = HOME) -> None:
    """Read everything that is stored, and say what is wrong with it.

    Example: dflmoe store check
    """
    store = store_of(home)
    wrong = store.check()
    if wrong:
        raise StoreError("; ".join(wrong))
    typer.echo(
        f"All is well: the newest heads of {len(store.heads())} sites, "
        f"{len(store.rounds())} rounds."
    )


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="New or empty folder.")],
    *,
    home: HomeOption = HOME,
) -> None:
    """Copy the store to another folder, while the node runs; keys are not in it.

    Example: dflmoe store backup /mnt/backup/2026-11-26
    """
    store_of(home).backup(folder)
    typer.echo(f"The store is in {folder}; the keys in {home_of(home).folder} are not.")


def store_of(home: Path) -> Store:
    """Return the store of a site, beside a node that may be running.

    Raises:
        KeyFileError: There is no site in the folder.
        StoreError: It cannot be opened.
    """
    here = home_of(home)
    _ = here.site  # says what to do where there is none
    return Store(here.folder / STORE, sweeps=False)
