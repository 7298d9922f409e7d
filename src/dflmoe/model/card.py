"""``MODELCARD.md``: what a model is, for the person who must answer for it.

Mitchell et al., Model Cards for Model Reporting, 2019.
"""

from dflmoe.model.told import Judged, Measured, Told

SERVES = {
    "own": "The site's own model serves: borrowed heads did not show that they help.",
    "hedge": "The mean of the site's own model and the mixture serves: the evidence that borrowed "
    "heads help is there, and weak.",
    "mixture": "The mixture of own and borrowed heads serves.",
}


def card(told: Told, audit_head: str | None = None) -> str:
    """Return the card of a model as Markdown.

    Args:
        told: What its file says.
        audit_head: Newest digest of the site's log; none outside a node.
    """
    parts = [
        _head(told),
        _data(told),
        _experts(told),
        _scores(told.judged),
        _limits(told),
        _made(told, audit_head),
    ]
    return "\n\n".join(parts) + "\n"


def _head(told: Told) -> str:
    return (
        f"# {told.task}\n\n"
        f"Model of {told.site} in {told.federation}, round {told.round}. {SERVES[told.serves]}\n\n"
        f"- Classes: {', '.join(told.classes)}\n"
        f"- Input: {told.kind}, each row of shape {' x '.join(map(str, told.shape))}"
    )


def _data(told: Told) -> str:
    people = "patients not named" if told.patients is None else f"{told.patients} patients"
    lines = [
        "## What it learnt from",
        f"{told.rows} rows of {told.site} alone ({people}). Rows of other sites were never here; "
        f"what came from them are heads.",
        _rows(["class", "rows"], [[name, str(n)] for name, n in told.class_rows.items()]),
    ]
    if told.columns is not None:
        columns = [
            [
                name,
                "category: " + ", ".join(map(str, column.levels))
                if column.levels is not None
                else f"number, (value - {column.centre:g}) / {column.scale:g}",
                "may be missing" if column.missing else "",
            ]
            for name, column in told.columns.columns.items()
        ]
        lines.append(_rows(["column", "read as", ""], columns))
    if told.reading:
        lines.append(f"Files are read with: `{told.reading}`.")
    return "\n\n".join(lines)


def _experts(told: Told) -> str:
    aside = [[name, "0", "set aside: it does harm here"] for name in told.set_aside]
    rows = [
        [name, f"{share:.2f}", ""]
        for name, share in told.share.items()
        if name not in told.set_aside
    ]
    return "## Whose heads\n\n" + _rows(["expert of", "mean weight", ""], [*rows, *aside])


def _scores(judged: Judged) -> str:
    people = f"{judged.rows} rows of {judged.patients} patients"
    rows = [
        [f"{judged.metric}, alone", told_as(judged.alone)],
        [f"{judged.metric}, this model", told_as(judged.served)],
        ["Brier score (0 is best, 2 worst)", f"{judged.brier:.3f}"],
    ]
    if judged.calibration_error is not None and judged.uncalibrated_error is not None:
        rows.append(
            [
                "calibration error, and without the temperature",
                f"{judged.calibration_error:.3f}, {judged.uncalibrated_error:.3f}",
            ]
        )
    text = (
        f"## How good it is\n\nMeasured on {people} ({judged.on}), with 95 % intervals over "
        f"patients.\n\n{_rows(['what', 'found'], rows)}"
    )
    if judged.points:
        points = [
            [p.name, f"{p.threshold:.3f}", told_as(p.sensitivity), told_as(p.specificity)]
            for p in judged.points
        ]
        text += "\n\nThresholds were chosen on training rows that were left out in turn.\n\n"
        text += _rows(["operating point", "threshold", "sensitivity", "specificity"], points)
    return text


def _limits(told: Told) -> str:
    lines = [
        f"- It is {told.site}'s: heads were weighed, and thresholds and temperature fitted, on its "
        f"own patients. Elsewhere, or once its scanners, coding or patients change, all of that is "
        f"unproven.",
        "- Its probabilities are of the classes above and of nothing else; a patient with none of "
        "them gets one all the same. Experts that disagree are a hint of that, not a proof.",
        "- An interval says what chance in the patients at hand may do, not what another year will "
        "bring.",
        "- It is no medical device; who uses it for care answers for that.",
    ]
    if told.patients is None:
        lines.append(
            "- Nobody named the patients, so several rows of one may stand on both sides of a "
            "split: scores may be too good."
        )
    return "## Limits\n\n" + "\n".join(lines)


def _made(told: Told, audit_head: str | None) -> str:
    software = ", ".join(f"{name} {of}" for name, of in told.software.items())
    audit = f"\n- Head of the site's audit log: `{audit_head}`" if audit_head else ""
    return f"## How it was made\n\n- {software}\n- File format: {told.format}{audit}"


def told_as(measured: Measured) -> str:
    """Return a number with its interval."""
    if measured.value is None:
        return "-"
    if measured.low is None or measured.high is None:
        return f"{measured.value:.3f}"
    return f"{measured.value:.3f} [{measured.low:.3f}, {measured.high:.3f}]"


def _rows(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
