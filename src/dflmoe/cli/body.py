"""``dflmoe body``: weights for the part of a network that stays at home."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dflmoe.cli.interrupt import INTERRUPTED
from dflmoe.cli.progress import bar
from dflmoe.core.pretraining import Pretrained, Pretraining
from dflmoe.data.checkpoints import plain, read_checkpoint
from dflmoe.data.pretraining import PATIENTS, Told, pretrained_body
from dflmoe.data.source import Source, read_settings
from dflmoe.data.weights import describe, read_weights, write_weights
from dflmoe.data.without_labels import Unlabelled
from dflmoe.errors import NetworkError, OptionError
from dflmoe.files import writable
from dflmoe.networks import build
from dflmoe.networks.fitting import some
from dflmoe.networks.public import weights_for
from dflmoe.simulation.device import compute_on, device_named
from dflmoe.wire.manifest import Count, Document

app = typer.Typer(no_args_is_help=True, help="Weights for the part that stays at home.")

OutOption = Annotated[Path, typer.Option("--out", help="Safetensors file to write.")]
NetworkOption = Annotated[
    str | None, typer.Option(help="Network, by name or package.module:factory.")
]
ShapeOption = Annotated[str | None, typer.Option(help="Of one row, for example 3,224,224.")]
ClassesOption = Annotated[int, typer.Option(help="That the network tells apart.")]
HeadOption = Annotated[str | None, typer.Option(help="First layer of the network's head.")]


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="PyTorch file with a state dict.")],
    *,
    out: OutOption = Path("body.safetensors"),
    network: NetworkOption = None,
    shape: ShapeOption = None,
    classes: ClassesOption = 2,
    head_from: HeadOption = None,
    prefix: Annotated[
        str, typer.Option(help="Take names that begin with it, without it: encoder.")
    ] = "",
) -> None:
    """Turn a PyTorch file into safetensors, in a process without keys; no code in it is run.

    With a network, only the weights of its body are kept, and they must fit it.

    Example: dflmoe body convert model.pt --network resnet8 --shape 1,64,64
    """
    wanted = _shape(network, shape)
    read = read_checkpoint(file, prefix)
    weights, left_out = read.weights, read.left_out
    origin: dict[str, str | int] = {"made_by": "dflmoe body convert"}
    if network is not None:
        weights, beside = weights_for(weights, network, wanted, classes, at=head_from)
        left_out = (*left_out, *beside)
        origin["network"] = network
    write_weights(out, weights, origin)
    if left_out:
        typer.echo(f"Left out: {some(left_out)}.")
    typer.echo(_written(out, len(weights)))


class ShownTensor(Document):
    """A tensor in ``body show --json``."""

    name: str
    dtype: str
    shape: tuple[Count, ...]


class ShownBody(Document):
    """What ``body show --json`` prints."""

    sha256: str
    bytes: Count
    numbers: Count
    origin: str | None
    tensors: tuple[ShownTensor, ...]
    network: str | None
    fits: bool | None
    faults: str


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="Safetensors file.")],
    *,
    network: NetworkOption = None,
    shape: ShapeOption = None,
    classes: ClassesOption = 2,
    head_from: HeadOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False,
) -> None:
    """Show what a file of weights holds, its SHA-256 as charters name it, and what it fits.

    Example: dflmoe body show body.safetensors --network resnet8 --shape 1,64,64
    """
    wanted = _shape(network, shape)
    held, origin = describe(file)
    faults = ""
    if network is not None:
        build(network, wanted, classes, at=head_from)  # that there is none is no fault of the file
        try:
            weights_for(read_weights(file), network, wanted, classes, at=head_from)
        except NetworkError as error:
            faults = str(error)
    shown = ShownBody(
        sha256=_digest(file),
        bytes=file.stat().st_size,
        numbers=sum(one.numbers for one in held.values()),
        origin=origin,
        tensors=tuple(
            ShownTensor(name=name, dtype=one.dtype, shape=one.shape) for name, one in held.items()
        ),
        network=network,
        fits=None if network is None else not faults,
        faults=faults,
    )
    if as_json:
        typer.echo(shown.model_dump_json(indent=1))
    else:
        _print(shown, file)


def _print(shown: ShownBody, file: Path) -> None:
    """Print what a file holds as a table; nothing in it is believed, or steers a terminal."""
    table = Table(title=Text(plain(file.name)), show_header=False)
    rows = [
        ("SHA-256", shown.sha256),
        ("bytes", str(shown.bytes)),
        ("numbers", str(shown.numbers)),
        ("says of itself", shown.origin or "-"),
    ]
    if shown.network is not None:
        rows.append((f"fits {shown.network}", "yes" if shown.fits else f"no: {shown.faults}"))
    rows += [(f"tensor {one.name}", f"{one.dtype} {list(one.shape)}") for one in shown.tensors]
    for label, text in rows:
        table.add_row(Text(plain(label)), Text(plain(text, most=2000), overflow="fold"))
    Console(highlight=False).print(table)


@app.command()
def pretrain(
    data: Annotated[Path, typer.Argument(help="site.toml, a folder of files, or an .npz.")],
    *,
    network: Annotated[str, typer.Option(help="Network, by name or package.module:factory.")],
    head_from: HeadOption = None,
    out: OutOption = Path("body.safetensors"),
    steps: Annotated[int, typer.Option(help="Of the optimiser.")] = Pretraining.steps,
    batch: Annotated[int, typer.Option(help="Rows of a step.")] = Pretraining.batch,
    seed: Annotated[int, typer.Option(help="Of all chance.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps or auto.")] = "cpu",
) -> None:
    """Let a network's body learn from images or series; labels are not looked at.

    Example: dflmoe body pretrain site.toml --network resnet8 --out body.safetensors
    """
    if steps < 1:
        raise OptionError(f"--steps is {steps}; it takes 1 or more")
    if batch < 2:  # noqa: PLR2004 - one row is like no other
        raise OptionError(f"--batch is {batch}; rows are compared with each other: give 2 or more")
    source = read_settings(data) if data.suffix == ".toml" else Source(path=data)
    writable(out.parent)
    compute_on(device_named(device), "fp32")
    with _progress(Console(stderr=True, highlight=False)) as told:
        plan = Pretraining(steps=steps, batch=batch)
        body = pretrained_body(source, network, plan, at=head_from, seed=seed, told=told)
    write_weights(out, body.learnt.weights, body.origin)
    typer.echo(_outcome(body.learnt, body.rows))
    typer.echo(_written(out, len(body.learnt.weights)))
    typer.echo(PATIENTS)


@contextmanager
def _progress(console: Console) -> Iterator[Told]:
    """Show how far each part of the work is; Ctrl-C ends it, and nothing is written."""
    try:
        with bar(console) as progress:

            def told(what: str) -> Callable[[int, int], None]:
                task = progress.add_task(what, total=None)

                def step(done: int, total: int) -> None:
                    progress.update(task, completed=done, total=total)
                    if not console.is_terminal and done and done % max(1, total // 10) == 0:
                        console.print(f"{done} of {total} {what}")

                return step

            yield told
    except KeyboardInterrupt:
        console.print("Stopped; nothing was written.")
        raise typer.Exit(INTERRUPTED) from None


def _outcome(learnt: Pretrained, rows: Unlabelled) -> str:
    """Return what came of learning, as it is."""
    left_out = f" ({rows.left_out} could not be read and were left out)" if rows.left_out else ""
    return (
        f"Learnt from {rows.rows} rows{left_out} of shape {list(rows.shape)}, without labels. "
        f"Spread of features: {learnt.spread:.3f} (untrained: {learnt.spread_before:.3f}; 0 says "
        f"the same of every row). A view of a row is liker to another view of it than to one of "
        f"another row in {learnt.told:.0%} of cases (by chance: 50%)."
    )


def _shape(network: str | None, text: str | None) -> tuple[int, ...]:
    """Return the shape of a row; empty if none is needed.

    Raises:
        OptionError: It is none, or is given without a network or a network without it.
    """
    if (network is None) != (text is None):
        raise OptionError("--network and --shape go together; give both, as in --shape 1,64,64")
    try:
        shape = tuple(int(part) for part in (text or "").split(",") if part)
    except ValueError as error:
        raise OptionError(f"--shape is {text!r}; give numbers, as in --shape 1,64,64") from error
    if any(side < 1 for side in shape):
        raise OptionError(f"--shape is {text!r}; all of its numbers must be 1 or more")
    return shape


def _written(out: Path, tensors: int) -> str:
    size = out.stat().st_size
    return f"{out}: {tensors} tensors, {size} bytes, SHA-256 {_digest(out)}"


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
