"""One pilot from a study to a report, whatever stops it in between."""

from collections.abc import Callable, Collection
from dataclasses import replace
from time import perf_counter

from dflmoe.data.study import Study
from dflmoe.pilot.arms import ARMS, FAULTS, Repeat, Step, play_repeat
from dflmoe.pilot.cost import Prices
from dflmoe.pilot.plan import Options, Plan, chosen
from dflmoe.pilot.result import report, rows_point
from dflmoe.report.schema import Report, RowsPoint

CURVE_ROWS = (20, 40, 80, 160)
"""Labelled rows of the points of ``--curve``; sites with fewer use all they have."""

CURVE_ARMS = ("alone", "federated", "pooled")


def steps_of(options: Options, *, curve: bool, arms: Collection[str] = ARMS) -> int:
    """Return how many steps a pilot takes, for a progress bar."""
    played = {"alone", "federated", *arms}
    steps = options.repeats * len(played) + (len(FAULTS) if played == set(ARMS) else 0)
    return steps + (len(CURVE_ROWS) * len(CURVE_ARMS) if curve else 0)


def run(
    study: Study,
    options: Options,
    *,
    plan: Plan | None = None,
    prices: Prices | None = None,
    curve: bool = False,
    arms: Collection[str] = ARMS,
    step: Step = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Report | None:
    """Play a pilot and return its report; stopped early, of what was played so far.

    Args:
        study: The sites.
        options: What the user chose.
        plan: Networks and dials; chosen from the study if not given.
        prices: Assumptions of the money section.
        curve: Also play with fewer labelled rows.
        arms: What to play beside ``alone`` and ``federated``.
        step: Called after each arm with its name.
        stopped: Asked between repeats.

    Returns:
        The report, or nothing if it was stopped before the first repeat was done.

    Raises:
        OptionError: An option makes no sense.
        SiteError: A site cannot take part.
        TrainingError: A loss is not finite.
    """
    began = perf_counter()
    study, options = study.checked(), options.checked()
    plan = plan or chosen(study, options)
    done: list[Repeat] = []
    points: list[RowsPoint] = []
    try:
        for number in range(options.repeats):
            if stopped():
                break
            done.append(play_repeat(study, options, plan, number, step, arms=arms))
        if curve and len(done) == options.repeats:
            points = _curve(study, options, plan, step)
    except KeyboardInterrupt:
        pass
    if not done:
        return None
    return report(
        study,
        options,
        plan,
        done,
        seconds=perf_counter() - began,
        prices=prices,
        rows_curve=points,
    )


def _curve(study: Study, options: Options, plan: Plan, step: Step) -> list[RowsPoint]:
    """Play once with each number of labelled rows, down to the fewest."""
    points = []
    for rows in CURVE_ROWS:
        few = replace(options, train_rows=rows)
        repeat = play_repeat(study, few, plan, 0, step, arms=CURVE_ARMS)
        points.append(rows_point(study, few, rows, [repeat]))
    return points
