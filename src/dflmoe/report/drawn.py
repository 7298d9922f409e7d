"""The two pictures of a consortium: gains with their intervals, and who lends to whom."""

from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Curve

from dflmoe.report.consortium import Consortium
from dflmoe.report.figures import BLUE, GREY, INK, ORANGE, svg
from dflmoe.report.share import Measured

GAP = 0.04
"""Between two sites at a side of the flow picture, in the height of all."""

FAINT = 0.45


def pictures(found: Consortium) -> dict[str, str]:
    """Return what there is to be drawn, by name."""
    sites = len(found.shares)
    drawn = {}
    if any(share.gain for share in found.shares):
        drawn["gains"] = svg(partial(_forest, found), (8, 1.3 + 0.42 * (sites + 1)))
    if any(found.flows.values()):
        drawn["flows"] = svg(partial(_flows, found), (8, 1.2 + 0.6 * len(found.members)))
    return drawn


def _forest(found: Consortium, figure: Figure) -> None:
    axes: Axes = figure.subplots()
    rows: list[tuple[str, Measured | None, str]] = [
        (share.site, share.gain, BLUE) for share in found.shares
    ]
    mean = found.mean_gain
    told = None if mean is None else Measured(value=mean.value, low=mean.low, high=mean.high)
    rows.append(("mean of sites", told, ORANGE))
    for y, (_, gain, colour) in enumerate(rows):
        if gain is None:
            axes.text(0, y, " not measured", color=GREY, va="center")
            continue
        if gain.low is not None and gain.high is not None:
            axes.plot([gain.low, gain.high], [y, y], color=colour, lw=2)
        axes.plot([gain.value], [y], "D" if colour == ORANGE else "o", color=colour)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axes.invert_yaxis()
    axes.set_xlabel(f"gain in {found.metric} over alone, 95 % intervals over patients")


def _flows(found: Consortium, figure: Figure) -> None:
    """Draw lenders at the left and borrowers at the right; a band is as wide as a weight."""
    axes: Axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    lenders = {
        name: sum(flow.get(name, 0.0) for flow in found.flows.values()) for name in found.members
    }
    borrowers = {name: sum(flow.values()) for name, flow in found.flows.items()}
    total = max(sum(borrowers.values()), 1e-9)
    left, right = (_stacked(side, total) for side in (lenders, borrowers))
    axes.set_ylim(1 + GAP * len(found.members), -3 * GAP)
    for colour, (lender, _) in zip(_colours(len(lenders)), lenders.items(), strict=True):
        for borrower, flow in found.flows.items():
            width = flow.get(lender, 0.0) / total
            if width:
                _band(axes, left[lender], right[borrower], width, colour)
                left[lender] += width
                right[borrower] += width
    for side, at, names in ((0.21, "right", lenders), (0.79, "left", borrowers)):
        starts = _stacked(names, total)
        for name, weight in names.items():
            text = f"{name}  {weight:.2f}" if at == "right" else f"{weight:.2f}  {name}"
            axes.text(side, starts[name] + weight / total / 2, text, ha=at, va="center", color=INK)
    axes.text(0.21, -2 * GAP, "lends", ha="right", color=GREY)
    axes.text(0.79, -2 * GAP, "borrows", ha="left", color=GREY)


def _stacked(sizes: dict[str, float], total: float) -> dict[str, float]:
    """Return where each site begins, from the top."""
    starts, at = {}, 0.0
    for name, size in sizes.items():
        starts[name] = at
        at += size / total + GAP
    return starts


def _colours(count: int) -> list[str]:
    wheel = (BLUE, ORANGE, "#3f7d3a", "#7a4fa3", "#a8324a", "#4a6572")
    return [wheel[k % len(wheel)] for k in range(count)]


def _band(axes: Axes, top_left: float, top_right: float, width: float, colour: str) -> None:
    """Draw one band, from left to right, with horizontal ends."""
    a, b, middle = 0.23, 0.77, 0.5
    points = [
        (a, top_left),
        (middle, top_left),
        (middle, top_right),
        (b, top_right),
        (b, top_right + width),
        (middle, top_right + width),
        (middle, top_left + width),
        (a, top_left + width),
        (a, top_left),
    ]
    codes = [Curve.MOVETO, *[Curve.CURVE4] * 3, Curve.LINETO, *[Curve.CURVE4] * 3, Curve.CLOSEPOLY]
    axes.add_patch(PathPatch(Curve(points, codes), facecolor=colour, alpha=FAINT, lw=0))
