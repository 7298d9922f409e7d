"""The report's figures, as SVG that stands in the page itself."""

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dflmoe.report.schema import Report, Site, Value

INK, BLUE, ORANGE, GREY = "#1b2733", "#0b6e99", "#c75d00", "#8a97a3"
STYLE: Any = {  # matplotlib types every key apart
    "svg.hashsalt": "dflmoe",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def figures(report: Report) -> dict[str, str]:
    """Return every figure that the report has data for, by name."""
    drawn: dict[str, tuple[Callable[[Report, Figure], None], bool, tuple[float, float]]] = {
        "gains": (_gains, True, (8, 1.2 + 0.75 * (len(report.sites) + 1))),
        "gate": (_gate, True, (6.5, 1.2 + 0.55 * len(report.sites))),
        "training": (_training, _trained(report) or bool(report.fedavg_curves), (8, 3)),
        "calibration": (_calibration, _has_reliability(report), (8, 3.2)),
        "rows": (_rows, bool(report.rows_curve), (6.5, 3.4)),
    }
    return {
        name: svg(partial(draw, report), size)
        for name, (draw, there, size) in drawn.items()
        if there
    }


def svg(draw: Callable[[Figure], None], size: tuple[float, float]) -> str:
    """Return what is drawn on a figure of a size in inches, in the house style."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _bar(axes: Axes, y: float, value: Value | None, colour: str, marker: str) -> None:
    if value is None:
        return
    if value.low is not None and value.high is not None:
        axes.plot([value.low, value.high], [y, y], color=colour, lw=2, solid_capstyle="butt")
    axes.plot([value.value], [y], marker, color=colour, ms=7)


def _gains(report: Report, figure: Figure) -> None:
    """Draw the gain of every site as a forest plot."""
    axes = figure.add_subplot()
    rows = [*report.sites, report.mean]
    for k, site in enumerate(rows):
        y = len(rows) - 1 - k
        _bar(axes, y + 0.22, site.gain, BLUE, "o")
        _bar(axes, y, site.control_gain, ORANGE, "s")
        _bar(axes, y - 0.22, site.within_split_gain, GREY, "D")
    for colour, marker, text in (
        (BLUE, "o", "over alone"),
        (ORANGE, "s", "over the best control"),
        (GREY, "D", "over alone, within one model"),
    ):
        axes.plot([], [], marker=marker, color=colour, lw=2, label=text)
    axes.axvline(0, color=INK, lw=1)
    axes.set_yticks(range(len(rows)), [f"{s.name}  (n = {s.rows})" for s in reversed(rows)])
    axes.set_xlabel(f"change in {report.metric} with borrowed heads (95 % interval over patients)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, frameon=False)


def _gate(report: Report, figure: Figure) -> None:
    """Draw who listens to whom as a heat map, and what each head is worth there."""
    axes = figure.add_subplot()
    names = [site.name for site in report.sites]
    shares = [[site.gate_share.get(name, 0.0) for name in names] for site in report.sites]
    picture = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for r, row in enumerate(shares):
        for c, share in enumerate(row):
            dark = share > 0.5  # noqa: PLR2004 - white on the darker half
            worth = report.sites[r].head_worth.get(names[c])
            text = f"{share:.2f}" if worth is None else f"{share:.2f}\n({worth:+.4f})"
            axes.text(c, r, text, ha="center", va="center", color="w" if dark else INK)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("weight of the head lent by")
    axes.set_ylabel("mixture at")
    figure.colorbar(picture, ax=axes, label="share")


def _trained(report: Report) -> bool:
    """Return whether a network was trained in steps; a linear head is solved."""
    return any(len(curve.x) > 1 for curve in report.training_curves.values())


def _training(report: Report, figure: Figure) -> None:
    """Draw the learning curves: alone while training, and FedAvg round by round."""
    trained = _trained(report)
    panels = figure.subplots(1, 2 if trained and report.fedavg_curves else 1, squeeze=False)[0]
    if trained:
        for name, curve in report.training_curves.items():
            panels[0].plot(curve.x, curve.y, label=name)
        panels[0].set_title("alone, while training", fontsize=10)
        panels[0].set_xlabel("look")
    if report.fedavg_curves:
        for k, (name, curve) in enumerate(report.fedavg_curves.items()):
            panels[-1].plot(curve.x, curve.y, color=f"C{k}", label=name)
            panels[-1].axhline(report.training_curves[name].y[-1], color=f"C{k}", ls=":", lw=1)
        panels[-1].set_title("FedAvg round by round (dotted: alone)", fontsize=10)
        panels[-1].set_xlabel("round through the server")
    panels[0].set_ylabel("out-of-fold log-loss")
    panels[-1].legend(frameon=False, fontsize=8)


def _has_reliability(report: Report) -> bool:
    return any(s.safety and s.safety.alone and s.safety.alone.reliability for s in report.sites)


def _calibration(report: Report, figure: Figure) -> None:
    """Draw what was said against what was seen."""
    panels = figure.subplots(1, len(report.sites), sharey=True, squeeze=False)[0]
    for panel, site in zip(panels, report.sites, strict=True):
        panel.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":")
        _reliability_line(panel, site, "alone", GREY)
        _reliability_line(panel, site, "federated", BLUE)
        panel.set_title(site.name, fontsize=10)
        panel.set_xlim(0, 1)
        panel.set_ylim(0, 1)
    panels[0].set_ylabel("seen")
    figure.supxlabel("said", fontsize=10)
    panels[-1].legend(frameon=False, fontsize=8, loc="upper left")


def _reliability_line(axes: Axes, site: Site, arm: str, colour: str) -> None:
    if site.safety is None:
        return
    point = site.safety.alone if arm == "alone" else site.safety.federated
    if point is not None and point.reliability is not None:
        line = point.reliability
        axes.plot(line.said, line.seen, "o-", color=colour, ms=3, lw=1.2, label=arm)


def _rows(report: Report, figure: Figure) -> None:
    """Draw the score against the number of labelled rows."""
    axes = figure.add_subplot()
    points = report.rows_curve
    rows = [p.train_rows for p in points]
    for name, colour, values in (
        ("alone", GREY, [p.alone for p in points]),
        ("with borrowed heads", BLUE, [p.federated for p in points]),
        ("pooled (nobody may)", ORANGE, [p.pooled for p in points]),
    ):
        axes.plot(rows, [v.value if v else float("nan") for v in values], "o-", color=colour,
                  label=name)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks(rows, [str(r) for r in rows])
    axes.minorticks_off()
    axes.set_xlabel("labelled rows at each site")
    axes.set_ylabel(f"mean {report.metric}")
    axes.legend(frameon=False)
