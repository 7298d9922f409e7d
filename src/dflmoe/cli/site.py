"""``dflmoe site``: the name and the keys of this hospital."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from dflmoe.cli.options import HOME, HomeOption, JsonOption, OutOption
from dflmoe.errors import FederationError
from dflmoe.files import replace_file
from dflmoe.node.home import Home
from dflmoe.security.keys import fingerprint, key_of
from dflmoe.wire.manifest import Document, now

app = typer.Typer(no_args_is_help=True, help="The name and the keys of this site.")


def home_of(folder: Path) -> Home:
    """Return a site's folder, ``~`` spelt out."""
    return Home(folder.expanduser())


class Shown(Document):
    """What ``site show`` prints as JSON."""

    name: str
    fingerprint: str
    endpoints: tuple[str, ...]
    certificate_until: str
    federation: str | None


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="Small letters, digits, hyphens: st-olav.")],
    *,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(help="host:port at which peers can dial this site; may be repeated."),
    ] = None,
    home: HomeOption = HOME,
) -> None:
    """Make the keys of this site; they never leave its folder.

    Example: dflmoe site init st-olav --endpoint fl.stolav.no:443
    """
    made = Home.made(home.expanduser(), name, tuple(endpoint or ()), now())
    typer.echo(f"Site {name} in {made.folder}\nFingerprint: {fingerprint(made.keys.public)}")


@app.command()
def show(*, home: HomeOption = HOME, as_json: JsonOption = False) -> None:
    """Show the name, the fingerprint to tell by phone, and until when the certificate serves."""
    here = home_of(home)
    site, keys = here.site, here.keys
    try:
        federation = here.charter.name
    except FederationError:
        federation = None
    shown = Shown(
        name=site.name,
        fingerprint=fingerprint(keys.public),
        endpoints=site.endpoints,
        certificate_until=f"{keys.certificate.not_valid_after_utc:%Y-%m-%d}",
        federation=federation,
    )
    if as_json:
        typer.echo(shown.model_dump_json(indent=1))
        return
    table = Table(show_header=False)
    for label, text in shown.model_dump().items():
        value = ", ".join(text) if isinstance(text, tuple) else text
        table.add_row(label.replace("_", " "), value or "-")
    Console(highlight=False).print(table)


@app.command()
def renew(*, home: HomeOption = HOME, out: OutOption = Path("roster.json")) -> None:
    """Make a new certificate; nobody needs to approve it, and the old one serves until it ends.

    Example: dflmoe site renew --out roster.json
    """
    roster = home_of(home).renew(now())
    if roster is None:
        typer.echo("The next request has the new certificate.")
        return
    replace_file(out, roster.raw)
    typer.echo(f"Peers learn it when this site's node runs, or from {out}.")


@app.command()
def rotate(*, home: HomeOption = HOME, out: OutOption = Path("request.json")) -> None:
    """Draw a new identity; it serves once the approvers have agreed, and the old one overlaps.

    Example: dflmoe site rotate --out request.json
    """
    asked = home_of(home).rotate(now())
    replace_file(out, asked.signed())
    print_request(asked.key, out)


def print_request(key: str, out: Path) -> None:
    """Say what to do with a request."""
    typer.echo(
        f"Send {out} to a member of the federation, and tell it by phone:\n"
        f"Fingerprint: {fingerprint(key_of(key))}"
    )
