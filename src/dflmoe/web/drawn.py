"""The one picture of the page: scores over rounds, as lines in SVG, drawn where they are served."""

from collections.abc import Sequence
from typing import NamedTuple

from dflmoe.node.seen import Past

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 240, 44, 64, 12, 28
"""Of the picture and its margins, in its own units."""

MARGIN = 0.01
"""Of a score, that the axis leaves above and below."""


class Tick(NamedTuple):
    """A mark of an axis.

    Attributes:
        at: Where it is.
        text: What stands there.
    """

    at: float
    text: str


class Line(NamedTuple):
    """Scores of one kind.

    Attributes:
        name: For people.
        kind: For the style.
        points: As SVG spells them; a piece for each stretch of rounds that have a score.
        end: Where the last score is.
        last: That score.
    """

    name: str
    kind: str
    points: list[str]
    end: tuple[float, float]
    last: float


class Drawn(NamedTuple):
    """The picture.

    Attributes:
        lines: Of scores.
        rounds: Marks below.
        scores: Marks at the left.
    """

    lines: list[Line]
    rounds: list[Tick]
    scores: list[Tick]


def drawn(rounds: Sequence[Past]) -> Drawn | None:
    """Return the picture of scores over rounds; none where there are no scores."""
    numbers = [past.summary.number for past in rounds]
    kinds = {
        "alone": [past.summary.own_score for past in rounds],
        "mixed": [past.summary.mixture_score for past in rounds],
    }
    known = [score for scores in kinds.values() for score in scores if score is not None]
    if not known:
        return None
    low, high = min(known) - MARGIN, max(known) + MARGIN
    span = max(1, numbers[-1] - numbers[0])

    def place(number: int, score: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * (number - numbers[0]) / span
        y = TOP + (HEIGHT - TOP - BOTTOM) * (high - score) / (high - low)
        return round(x, 1), round(y, 1)

    lines = []
    for kind, scores in kinds.items():
        pieces: list[list[tuple[float, float]]] = [[]]
        for number, score in zip(numbers, scores, strict=True):
            if score is None:
                pieces.append([])
            else:
                pieces[-1].append(place(number, score))
        told = [piece for piece in pieces if piece]
        if told:
            last = next(score for score in reversed(scores) if score is not None)
            points = [" ".join(f"{x},{y}" for x, y in piece) for piece in told]
            lines.append(Line(kind, kind, points, told[-1][-1], last))
    shown = sorted({numbers[0], numbers[-1]})
    return Drawn(
        _apart(lines),
        [Tick(place(number, low)[0], str(number)) for number in shown],
        [Tick(place(numbers[0], score)[1], f"{score:.3f}") for score in (min(known), max(known))],
    )


def _apart(lines: list[Line]) -> list[Line]:
    """Return the same, with names at the ends that do not cover each other."""
    if len(lines) < 2 or abs(lines[0].end[1] - lines[1].end[1]) >= 16:  # noqa: PLR2004 - a line of text
        return lines
    upper, lower = sorted(lines, key=lambda line: line.end[1])
    middle = (upper.end[1] + lower.end[1]) / 2
    middle = min(max(middle, TOP + 8), HEIGHT - BOTTOM - 8)
    return [
        upper._replace(end=(upper.end[0], middle - 8)),
        lower._replace(end=(lower.end[0], middle + 8)),
    ]
