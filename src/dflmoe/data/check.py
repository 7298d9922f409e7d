"""The check of a site's data before it learns anything: what is there, and what to mend.

It stays at the site: nothing of it is sent to anybody, so small numbers are not hidden.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError

from dflmoe.data.columns import columns
from dflmoe.data.declared import Declared, declared
from dflmoe.data.findings import (
    Finding,
    divided,
    enough,
    features,
    found,
    many,
    patients,
)
from dflmoe.data.formats import form_of
from dflmoe.data.listing import Step
from dflmoe.data.look_files import look_at_files
from dflmoe.data.look_tables import look_at_arrays, look_at_table
from dflmoe.data.looked import TOLD, Looked
from dflmoe.data.prepared import splits_of
from dflmoe.data.source import Source
from dflmoe.data.splits import Splits
from dflmoe.data.strange import copied, hinted, near, strange
from dflmoe.data.study import SiteRows
from dflmoe.data.tallies import Part, Table, of_classes, of_sizes
from dflmoe.errors import DataError, SchemaError, SettingsError, SiteError
from dflmoe.wire.manifest import Document, faults_of

INNER_FOLDS = 5
"""Parts of the rows learnt from, as charters have them where they say nothing."""

SAMPLES, MOST_CLASSES = 6, 24
"""Pictures of a class, and classes that have some, at most."""


class Check(Document):
    """What a check of data found.

    Attributes:
        format: Of this document.
        name: The site.
        path: Where its rows are.
        rows: That can be read.
        findings: In the order in which a newcomer would mend them.
        tables: By what they tell of.
        declared: What the site may tell others; none if that cannot be known yet.
    """

    format: Literal["dflmoe-check-1"] = "dflmoe-check-1"
    name: str
    path: str
    rows: int = 0
    findings: tuple[Finding, ...]
    tables: dict[str, Table] = Field(default_factory=dict)
    declared: Declared | None = None

    @property
    def failed(self) -> tuple[str, ...]:
        """What must be mended, each once."""
        return tuple(dict.fromkeys(f.check for f in self.findings if f.verdict == "failed"))


@dataclass(frozen=True)
class Checked:
    """A check, and what its page is drawn from.

    Attributes:
        check: What was found.
        looked: All rows, in small.
        look_at: Numbers of rows to be shown as pictures, by what they show.
    """

    check: Check
    looked: Looked
    look_at: Mapping[str, Sequence[int]]


def checked(
    source: Source,
    name: str,
    *,
    seed: int = 0,
    show_patients: bool = False,
    step: Step = lambda *_: None,
) -> Checked:
    """Look at all rows of a site, and say what is there and what to mend.

    Args:
        source: Where the rows are.
        name: The site.
        seed: Of its node, which draws the rows that are set aside.
        show_patients: Also name patients; otherwise no identifier is in what comes back.
        step: Told how far it is.

    Raises:
        MissingExtraError: A library for the format is not installed.
    """
    path = "a database" if source.database else str(source.path)
    part = Part()
    try:
        looked = replace(_looked(source, name, step), show_patients=show_patients)
    except (DataError, SchemaError, SettingsError) as error:
        part.findings.append(found("reading", str(error), worse="failed", fix="do as it says"))
        return Checked(Check(name=name, path=path, findings=(*part.findings,)), Looked("table"), {})
    _files(looked, source, part)
    part.findings.extend(looked.troubles)
    _sizes(looked, part)
    rows = looked.rows
    if rows is not None:
        strange(looked, part)
        _rows(looked, rows, source, seed, part)
        copied(looked, rows, part)
        near(looked, rows, part)
        part.findings.append(features(rows))
    columns(looked, source, part)
    if rows is not None and "rows" not in {f.check for f in part.findings if f.verdict == "failed"}:
        hinted(looked, rows, part)
    told = _declared(looked, source, name, part)
    check = Check(
        name=name,
        path=path,
        rows=0 if rows is None else len(rows.y),
        findings=(*part.findings,),
        tables=part.tables,
        declared=told,
    )
    return Checked(check, looked, _samples(looked) | part.look_at)


def _looked(source: Source, name: str, step: Step) -> Looked:
    form = form_of(source)
    if form == "table":
        return look_at_table(source, name)
    return look_at_arrays(source, name) if form == "arrays" else look_at_files(source, name, step)


def _files(looked: Looked, source: Source, part: Part) -> None:
    """Say which files cannot be read, and which have no label."""
    for check, why, verb, worse in (
        ("unreadable", looked.unreadable, "cannot be read", not source.skip_unreadable),
        ("unlabelled", dict.fromkeys(looked.unlabelled, "no label"), "without a label", True),
    ):
        if not why:
            continue
        told = ", ".join([*why][:TOLD])
        more = f" and {len(why) - TOLD} more" if len(why) > TOLD else ""
        more += f"; the first: {next(iter(why.values()))}" if check == "unreadable" else ""
        part.findings.append(
            found(
                check,
                f"{many(len(why), 'file')} {verb}: {told}{more}",
                worse="failed" if worse else "warning",
                fix="export them again, or go on without: --skip-unreadable"
                if check == "unreadable"
                else "name their labels, or move them away",
            )
        )
        part.tables[check] = Table(
            title=f"Files that {verb}", columns=("file", "reason"), rows=(*why.items(),)
        )
    if looked.kind != "table" and not looked.unreadable and looked.rows is not None:
        part.findings.append(found("unreadable", "every file can be read"))


def _sizes(looked: Looked, part: Part) -> None:
    if not looked.sizes:
        return
    part.tables["sizes"] = of_sizes(looked.sizes)
    what = looked.what or {"image": "images"}.get(looked.kind, looked.kind)
    part.findings.append(found("kind", f"{what}: {_by(looked)}"))


def _by(looked: Looked) -> str:
    """Return what shape rows have, and what they are brought to."""
    usual = max(looked.sizes, key=lambda shape: looked.sizes[shape])
    text = _shape(usual)
    if len(looked.sizes) > 1:
        text += f", and {many(len(looked.sizes) - 1, 'other size')}"
    if looked.shape is not None and {*looked.sizes} != {looked.shape}:
        text += f", brought to {_shape(looked.shape)}"
    return text


def _shape(shape: Sequence[int]) -> str:
    return f"{' x '.join(map(str, shape[1:]))} with {many(shape[0], 'channel')}"


def _rows(looked: Looked, rows: SiteRows, source: Source, seed: int, part: Part) -> None:
    """Say whether rows are enough, and how they are divided."""
    splits: Splits | None = None
    if looked.classes:
        part.findings.append(enough(rows, looked.classes, test_folds=source.test_folds))
        if part.findings[-1].verdict != "failed":
            splits = _divided(looked, rows, source, seed, part)
        part.tables["classes"] = of_classes(rows, looked.classes, splits)
    part.findings.append(patients(rows, splits, named=bool(looked.people)))


def _divided(
    looked: Looked, rows: SiteRows, source: Source, seed: int, part: Part
) -> Splits | None:
    """Divide rows as a node does, and say whether every class is in both parts."""
    try:
        splits = splits_of(
            rows, folds=source.test_folds, inner_folds=INNER_FOLDS, seed=seed, only=(0,)
        )
    except SiteError as error:
        fix = "add patients, or set fewer test_folds in [data]"
        part.findings.append(found("split", str(error), worse="failed", fix=fix))
        return None
    part.findings.append(divided(rows, looked.classes, splits))
    return splits


def _declared(looked: Looked, source: Source, name: str, part: Part) -> Declared | None:
    """Return what the site may tell others, unless nothing could be read."""
    if looked.rows is None and looked.frame is None:
        return None
    try:
        return declared(looked, source, name)
    except ValidationError as error:
        trouble = f"nothing can be declared: {faults_of(error)}"
        part.findings.append(
            found("declared", trouble, worse="warning", fix="give it a shorter, plainer name")
        )
        return None


def _samples(looked: Looked) -> dict[str, Sequence[int]]:
    """Return a few rows of each class, drawn by chance that is always the same."""
    if looked.rows is None or looked.row is None:
        return {}
    y = looked.rows.y
    rng = np.random.default_rng(0)
    return {
        f"Class {name}" if looked.classes else "Rows": np.sort(
            rng.permutation(np.flatnonzero(y == k))[:SAMPLES]
        ).tolist()
        for k, name in enumerate((looked.classes or ("",))[:MOST_CLASSES])
    }
