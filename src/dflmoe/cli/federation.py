"""``dflmoe federation``: who belongs, by whose word, under which charter."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from dflmoe.cli.options import HOME, HomeOption, JsonOption, OutOption
from dflmoe.cli.site import home_of, print_request
from dflmoe.errors import FederationError, FingerprintError
from dflmoe.files import replace_file
from dflmoe.node.home import Home, as_request, compared, read_limited
from dflmoe.security.charter import Charter
from dflmoe.security.keys import fingerprint
from dflmoe.security.proposal import lacking, renewed, signed, without_site
from dflmoe.security.roster import Bundle, Roster, bundled, changes, proposed
from dflmoe.wire.manifest import Document, now

app = typer.Typer(no_args_is_help=True, help="Who belongs to the federation, and by whose word.")

TOLD = "Fingerprint that the other site told you by phone."
FileArgument = Annotated[Path, typer.Argument(help="File that you were given.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


class ShownMember(Document):
    """A site in ``federation show --json``."""

    site: str
    role: str
    approves: bool
    fingerprints: tuple[str, ...]
    endpoints: tuple[str, ...]


class ShownRoster(Document):
    """What ``federation show --json`` prints."""

    name: str
    federation: str
    charter: str
    version: int
    standing: str
    valid_until: str
    must_agree: int
    members: tuple[ShownMember, ...]


@app.command()
def create(
    charter: Annotated[Path, typer.Argument(help="TOML file with the rules.")],
    *,
    home: HomeOption = HOME,
) -> None:
    """Begin a federation by its rules; it has a roster once a second site has joined.

    Example: dflmoe federation create charter.toml
    """
    rules = Charter.found(charter)
    home_of(home).create(rules)
    typer.echo(f"{rules.name!r} begins with charter {rules.digest[:12]}; invite a second site.")


@app.command()
def invite(
    site: Annotated[str, typer.Argument(help="Name of the site that is invited.")],
    *,
    home: HomeOption = HOME,
    out: OutOption = Path("invitation.json"),
) -> None:
    """Write an invitation for one site; send it by any channel.

    Example: dflmoe federation invite charite --out invitation.json
    """
    here = home_of(home)
    replace_file(out, here.invite(site, now()))
    typer.echo(
        f"Send {out} to {site}, and tell them by phone:\n"
        f"Fingerprint: {fingerprint(here.keys.public)}"
    )


@app.command()
def join(
    invitation: FileArgument,
    *,
    told: Annotated[str, typer.Option("--fingerprint", help=TOLD)],
    home: HomeOption = HOME,
    out: OutOption = Path("request.json"),
) -> None:
    """Accept an invitation, and write the request to send back.

    Example: dflmoe federation join invitation.json --fingerprint ABCD-EFGH-...
    """
    here = home_of(home)
    accepted, asked = here.join(read_limited(invitation, "the invitation"), told, now())
    replace_file(out, asked.signed())
    typer.echo(f"{here.site.name} asks to belong to {accepted.charter.name!r}.")
    print_request(asked.key, out)


@app.command()
def approve(
    file: FileArgument,
    *,
    told: Annotated[
        str | None, typer.Option("--fingerprint", help=f"Of a request: {TOLD.lower()}")
    ] = None,
    approver: Annotated[
        bool, typer.Option(help="Whether the newcomer shall decide with the others.")
    ] = True,
    relay: Annotated[
        bool, typer.Option("--relay", help="The newcomer only passes heads on.")
    ] = False,
    yes: YesOption = False,
    home: HomeOption = HOME,
    out: OutOption = Path("proposal.json"),
) -> None:
    """Sign a request or a proposal, after reading what it changes.

    Example: dflmoe federation approve request.json --fingerprint ABCD-EFGH-...
    """
    here, raw = home_of(home), read_limited(file, "the file")
    asked = as_request(raw)
    if asked is not None:
        name = asked.shown().site
        if told is None:
            raise FingerprintError(
                f"a request counts for nothing without its fingerprint: call {name}, "
                f"and give what they read to you with --fingerprint"
            )
        compared(asked.key, told, name)
    _proposed(here, here.approve(raw, now(), approver=approver, relay=relay), yes=yes, out=out)


@app.command()
def remove(
    site: Annotated[str, typer.Argument(help="Site that shall no longer belong.")],
    *,
    yes: YesOption = False,
    home: HomeOption = HOME,
    out: OutOption = Path("proposal.json"),
) -> None:
    """Propose that a site no longer belongs.

    Example: dflmoe federation remove charite --out proposal.json
    """
    here = home_of(home)
    bundle = without_site(_roster(here), site, now())
    _proposed(here, signed(bundle, here.keys.signing), yes=yes, out=out)


@app.command()
def renew(
    *, yes: YesOption = False, home: HomeOption = HOME, out: OutOption = Path("proposal.json")
) -> None:
    """Propose that the roster stays valid for longer.

    Example: dflmoe federation renew --out proposal.json
    """
    here = home_of(home)
    bundle = renewed(_roster(here), now())
    _proposed(here, signed(bundle, here.keys.signing), yes=yes, out=out)


@app.command()
def update(roster: FileArgument, *, home: HomeOption = HOME) -> None:
    """Take in a newer roster, from a peer or a stick.

    Example: dflmoe federation update roster.json
    """
    taken = home_of(home).install(bundled(read_limited(roster, "the roster")), now())
    typer.echo(f"Version {taken.version}: {', '.join(taken.members)}.")


@app.command()
def show(*, home: HomeOption = HOME, as_json: JsonOption = False) -> None:
    """Show who belongs, who approves, and until when the roster is valid."""
    shown = _shown(_roster(home_of(home)))
    if as_json:
        typer.echo(shown.model_dump_json(indent=1))
        return
    table = Table(
        title=f"{shown.name}, version {shown.version}, {shown.standing} until {shown.valid_until}; "
        f"{shown.must_agree} must agree"
    )
    for column in ("site", "role", "approves", "fingerprint", "dialled at"):
        table.add_column(column)
    for member in shown.members:
        table.add_row(
            member.site,
            member.role,
            "yes" if member.approves else "no",
            "\n".join(member.fingerprints),
            ", ".join(member.endpoints) or "dials only",
        )
    Console(highlight=False).print(table)


def _roster(here: Home) -> Roster:
    roster = here.roster(now())
    if roster is None:
        raise FederationError(
            f"{here.charter.name!r} has no roster yet; it needs a second site: "
            f"dflmoe federation invite"
        )
    return roster


def _shown(roster: Roster) -> ShownRoster:
    return ShownRoster(
        name=roster.charter.name,
        federation=roster.charter.federation,
        charter=roster.charter.digest,
        version=roster.version,
        standing=roster.standing(now()),
        valid_until=f"{roster.expires:%Y-%m-%d}",
        must_agree=roster.threshold,
        members=tuple(
            ShownMember(
                site=member.site,
                role="relay" if member.relay else "site",
                approves=member.approver,
                fingerprints=tuple(fingerprint(key) for key in member.keys.values()),
                endpoints=member.card.endpoints,
            )
            for member in roster.members.values()
        ),
    )


def _proposed(here: Home, bundle: Bundle, *, yes: bool, out: Path) -> None:
    """Show what a proposal changes, and write it; with enough signatures it is the roster."""
    for line in changes(here.roster(now()), proposed(bundle, now())):
        typer.echo(line)
    if not yes:
        typer.confirm("Do you approve?", abort=True)
    missing = lacking(bundle)
    if missing:
        replace_file(out, bundle.signed())
        typer.echo(f"{missing} more must approve: send {out} to another approver.")
        return
    roster = here.install(bundle, now())
    replace_file(out, roster.raw)
    typer.echo(f"All approved: {out} is the roster; hand it to the others.")
