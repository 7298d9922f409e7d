"""Whether sites that declared their data can learn together, and what to mend where they cannot."""

import json
from collections.abc import Callable, Mapping, Sequence

from dflmoe.data.declared import Declared
from dflmoe.data.schema import Column
from dflmoe.wire.manifest import Document

CHARTER = "charter"
"""What the charter is called among the sites; no site bears this name twice."""

Found = Mapping[str, Declared]


class Difference(Document):
    """Something that sites declare differently.

    Attributes:
        what: In a word or two.
        found: What each says.
        mend: What to do, in a sentence.
    """

    what: str
    found: dict[str, str]
    mend: str


def compared(sites: Sequence[Declared], charter: Declared | None = None) -> tuple[Difference, ...]:
    """Return all in which sites differ from each other, or from a charter; nothing if they fit.

    Args:
        sites: What each declares.
        charter: What a charter says, as a declaration.
    """
    every: dict[str, Declared] = {}
    for one in sites:
        same = sum(name.split(" (")[0] == one.name for name in every)
        every[f"{one.name} ({same + 1})" if same else one.name] = one
    if charter is not None:
        every = {CHARTER: charter} | {
            f"{name} (site)" if name == CHARTER else name: one for name, one in every.items()
        }
    kinds = _differs("kind", every, lambda one: one.kind, "read the same sort of rows everywhere")
    if kinds:
        return kinds  # nothing else can be compared
    return (*_classes(every), *_pictures(every), *_columns(every))


def _differs(
    what: str, every: Found, of: Callable[[Declared], object], mend: str
) -> tuple[Difference, ...]:
    values = {name: of(one) for name, one in every.items()}
    if len({repr(value) for value in values.values()}) < 2:  # noqa: PLR2004 - all are the same
        return ()
    return (Difference(what=what, found={n: _said(v) for n, v in values.items()}, mend=mend),)


def _said(value: object) -> str:
    if value is None:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _classes(every: Found) -> tuple[Difference, ...]:
    """Return whether labels mean the same; a site may lack a class of the charter."""
    charter = every.get(CHARTER)
    if charter is not None and charter.kind != "table":
        codes = {str(k) for k in range(len(charter.classes))}
        if all(set(one.classes) <= {*charter.classes} or {*one.classes} <= codes
               for one in every.values()):  # fmt: skip
            return ()
    named = (
        charter.classes if charter else dict.fromkeys(c for d in every.values() for c in d.classes)
    )
    listed = json.dumps([*named], ensure_ascii=False)
    where = "the schema" if every[next(iter(every))].kind == "table" else "[data]"
    mend = f"name them everywhere in one order: classes = {listed} in {where}"
    return _differs("classes", every, lambda one: one.classes, mend)


def _pictures(every: Found) -> tuple[Difference, ...]:
    """Return whether rows have one shape and meaning."""
    if any(one.kind == "table" for one in every.values()):
        agreed = {name: one for name, one in every.items() if one.shape is not None}
        return _differs(
            "shape", agreed, lambda one: one.shape, "give every site the schema of the charter"
        )
    told = {name: one for name, one in every.items() if one.what is not None}
    charter = every.get(CHARTER)
    size, channels = "one size", "one number"
    if charter is not None and charter.shape is not None:
        size, channels = json.dumps(charter.shape[1:]), str(charter.channels)
    return (
        *_differs(
            "what rows are",
            told,
            lambda one: one.what,
            "read one kind of files everywhere, or bring images to grey (1) or colour (3) with "
            "channels in [data]",
        ),
        *_differs(
            "channels",
            every,
            lambda one: one.channels,
            f"bring all to {channels} with channels in [data]",
        ),
        *_differs(
            "size",
            every,
            lambda one: one.shape and one.shape[1:],
            f"bring all to {size} with size in [data]",
        ),
        *_differs(
            "range",
            told,
            lambda one: one.range,
            "set one range in [data] everywhere, in the units of the files, so that a value means "
            "the same",
        ),
    )


def _columns(every: Found) -> tuple[Difference, ...]:
    """Return whether columns are the same, and mean the same."""
    told = {name: one.columns for name, one in every.items() if one.columns is not None}
    whole = dict.fromkeys(column for columns in told.values() for column in columns)
    lacking = {name: [c for c in whole if c not in columns] for name, columns in told.items()}
    schema = "give every site the same schema, with schema in [data]"
    out: list[Difference] = []
    if any(lacking.values()):
        said = {n: f"lacks {', '.join(c)}" if c else "has all" for n, c in lacking.items()}
        out.append(Difference(what="columns", found=said, mend=schema))
    elif len({tuple(columns) for columns in told.values()}) > 1:
        said = {name: ", ".join(columns) for name, columns in told.items()}
        out.append(Difference(what="order of columns", found=said, mend=schema))
    bare = [n for n, columns in told.items() if columns and not any(columns.values())]
    if bare and len(bare) < len(told):
        said = {n: "not described" if n in bare else "described" for n in told}
        return (*out, Difference(what="meaning of columns", found=said, mend=schema))
    for column in whole:
        has = {n: columns[column] for n, columns in told.items() if column in columns}
        if len({repr(one) for one in has.values()}) > 1:
            said = {n: _described(one) for n, one in has.items()}
            mend = f"agree on one meaning of {column!r} in the schema"
            out.append(Difference(what=f"column {column}", found=said, mend=mend))
    return tuple(out)


def _described(column: Column | None) -> str:
    if column is None:
        return "not described"
    return ", ".join(f"{k} {_said(v)}" for k, v in column.model_dump(exclude_defaults=True).items())
