"""What taking part costs a site in a year: energy and money, by a formula that anybody can change.

The page of a consortium computes the same with the reader's own numbers (``consortium.js``); a test
compares the two.
"""

from typing import Annotated

from pydantic import Field

from dflmoe.report.schema import Section
from dflmoe.report.share import Share

HOURS, DAYS = 8760.0, 365.0
"""Of a year."""

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Assumptions(Section):
    """What is assumed, not measured: docs/explanation/money-and-energy.md says why so.

    Attributes:
        staff_hours: Of one site and year, to look after a node.
        staff_rate: Of one such hour.
        machine: A year of the machine that the node runs on, or of its part of one.
        busy_watts: What the machine draws more while it computes.
        idle_watts: What it draws all year for the node's sake.
        overhead: What a data centre draws for each watt of a machine (PUE).
        energy_price: Of one kWh.
        carbon: Kilograms of CO2 for one kWh.
        energy_per_gb: kWh that a gigabyte costs on its way.
        value_of_a_point: What one more hundredth of the score is worth to a site in a year; null
            where nobody says.
        currency: Of all sums.
    """

    staff_hours: Amount = 24.0
    staff_rate: Amount = 60.0
    machine: Amount = 400.0
    busy_watts: Amount = 65.0
    idle_watts: Amount = 8.0
    overhead: Amount = 1.5
    energy_price: Amount = 0.30
    carbon: Amount = 0.25
    energy_per_gb: Amount = 0.03
    value_of_a_point: Amount | None = None
    currency: str = "EUR"


class Running(Section):
    """A year of one site.

    Attributes:
        site: Which.
        hours: Of computing.
        gigabytes: Sent and received.
        heads: Lent.
        energy: kWh.
        carbon: Kilograms of CO2.
        money: In the currency of the assumptions.
        per_head: Money for each head that was lent; none if none was.
        break_even: Hundredths of the score at which the year pays; none without a value.
    """

    site: str
    hours: float
    gigabytes: float
    heads: float
    energy: float
    carbon: float
    money: float
    per_head: float | None
    break_even: float | None


def running(share: Share, assumed: Assumptions) -> Running:
    """Return what a year like the days that were measured costs a site.

    Less than a day is taken for a day: a demonstration of a minute would say nothing of a year.
    """
    a = assumed
    times = DAYS / max(share.days, 1.0)
    hours = share.seconds / 3600 * times
    gigabytes = (share.sent + share.received) / 1e9 * times
    heads = share.rounds * times
    watt_hours = a.overhead * (a.busy_watts * hours + a.idle_watts * HOURS)
    energy = watt_hours / 1000 + a.energy_per_gb * gigabytes
    money = a.staff_hours * a.staff_rate + a.machine + energy * a.energy_price
    value = a.value_of_a_point
    return Running(
        site=share.site,
        hours=hours,
        gigabytes=gigabytes,
        heads=heads,
        energy=energy,
        carbon=energy * a.carbon,
        money=money,
        per_head=money / heads if heads else None,
        break_even=money / value if value else None,
    )
