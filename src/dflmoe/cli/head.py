"""``dflmoe head``: look at a lent head, and ask whether it may be believed."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from dflmoe.cli.options import HOME, HomeOption, JsonOption
from dflmoe.cli.site import home_of
from dflmoe.cli.store import store_of
from dflmoe.errors import FederationError
from dflmoe.node.agreed import spec_of
from dflmoe.node.home import read_limited
from dflmoe.security.admission import announced, received
from dflmoe.wire.envelope import HEAD, unsealed
from dflmoe.wire.manifest import Count, Document, Manifest, now
from dflmoe.wire.parcel import unpacked
from dflmoe.wire.payload import digest, header

app = typer.Typer(no_args_is_help=True, help="Look at a lent head.")

LARGEST = 65 * 1024**2
"""Bytes of a file of a head: the most that a charter may allow, and its envelope."""

FileArgument = Annotated[Path, typer.Argument(help="File of a lent head.")]


class ShownTensor(Document):
    """A tensor in ``head show --json``."""

    name: str
    dtype: str
    shape: tuple[Count, ...]


class ShownHead(Document):
    """What ``head show --json`` prints."""

    verified: bool
    manifest: Manifest
    payload_matches: bool
    tensors: tuple[ShownTensor, ...]


@app.command()
def show(file: FileArgument, *, as_json: JsonOption = False) -> None:
    """Show what a head says of itself; nothing of it is believed, and no signature is checked.

    Example: dflmoe head show charite.head
    """
    parcel = unpacked(read_limited(file, "the head", LARGEST), f"{file}")
    manifest = Manifest.read(unsealed(parcel.envelope, HEAD, f"{file}").payload, f"{file}")
    described = header(parcel.payload, manifest.site)
    shown = ShownHead(
        verified=False,
        manifest=manifest,
        payload_matches=digest(parcel.payload) == manifest.payload,
        tensors=tuple(
            ShownTensor(name=name, dtype=d.dtype, shape=tuple(n or 0 for n in d.shape))
            for name, d in described.items()
        ),
    )
    if as_json:
        typer.echo(shown.model_dump_json(indent=1))
        return
    table = Table(title=f"{file.name}: what it says; not verified", show_header=False)
    for name, value in manifest.model_dump(exclude_none=True).items():
        table.add_row(name, str(value))
    table.add_row("payload is as it says", "yes" if shown.payload_matches else "NO")
    for tensor in shown.tensors:
        table.add_row(tensor.name, f"{tensor.dtype} {list(tensor.shape)}")
    Console(highlight=False).print(table)


@app.command()
def verify(file: FileArgument, *, home: HomeOption = HOME) -> None:
    """Check a head as a node does: signature, federation, charter, digest, header, numbers.

    Example: dflmoe head verify charite.head
    """
    roster = home_of(home).roster(now())
    if roster is None:
        raise FederationError(
            "there is no roster to check a head against; take one in with: dflmoe federation update"
        )
    parcel = unpacked(read_limited(file, "the head", LARGEST), f"{file}")
    manifest = announced(parcel.envelope, roster, {}, now())
    received(manifest, parcel.payload, spec_of(roster.charter, manifest))
    typer.echo(
        f"{manifest.site} lent this head with number {manifest.seq}, and nobody has changed it."
    )


@app.command()
def release(
    site: Annotated[str, typer.Argument(help="The site that signed two heads of one number.")],
    *,
    home: HomeOption = HOME,
) -> None:
    """Use a site's heads again, after you have asked it how it could sign two of one number.

    Example: dflmoe head release charite
    """
    if not store_of(home).release(site, now()):
        raise FederationError(f"there is no evidence against {site} here, so none is forgotten")
    typer.echo(f"The evidence against {site} is forgotten; its next head is used if it serves.")
