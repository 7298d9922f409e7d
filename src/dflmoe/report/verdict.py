"""A verdict is computed from intervals, never typed."""

from dflmoe.metrics.resampling import Interval
from dflmoe.report.schema import Verdict

MIN_CASES = 10
"""Cases of each class that a site needs before anything is said about it."""


def verdict(gain: Interval, control_gain: Interval | None, fewest: int) -> Verdict:
    """Return what the intervals say.

    Args:
        gain: Federated minus alone.
        control_gain: Federated minus the best control.
        fewest: Cases of the rarest class.
    """
    if fewest < MIN_CASES:
        return "too few cases"
    if gain.high < 0:
        return "harm"
    if gain.low > 0:
        if control_gain is not None and control_gain.low > 0:
            return "gain"
        return "capacity, not knowledge"
    return "no gain shown"


SENTENCES: dict[Verdict, str] = {
    "gain": (
        "Borrowed heads helped here: the gain is above zero over alone and over the best control."
    ),
    "capacity, not knowledge": (
        "Better than alone, but no better than a control: the extra capacity may have helped, "
        "the peers' knowledge is not shown to have."
    ),
    "no gain shown": "The interval includes zero: these data show neither gain nor harm.",
    "harm": "Worse than alone: do not use borrowed heads here.",
    "too few cases": "Fewer than 10 cases of a class: nothing can be said about this site.",
    "not measured": "This arm was not played.",
}
