"""What the demonstration plays: one test fold of the embedded study, at some of its hospitals.

``dflmoe pilot --demo-split`` plays the very same in one process.
"""

from dataclasses import replace

from dflmoe.data.study import Study
from dflmoe.data.tables import embedded_study
from dflmoe.errors import OptionError
from dflmoe.pilot.arms import CONTROLS
from dflmoe.pilot.plan import Options
from dflmoe.types import SiteId
from dflmoe.wire.payload import WireDtype

HOSPITALS = ("cleveland", "budapest", "long-beach", "switzerland")
"""In the order in which they take part; the last has few cases without disease."""

FEWEST, DEFAULT = 2, 3

ARMS = tuple(CONTROLS)


def demo_options(seed: int, dtype: WireDtype) -> Options:
    """Return the options of one test fold."""
    return Options(repeats=1, seed=seed, dtype=dtype, only_split=0).checked()


def site_id(name: str) -> SiteId:
    """Return the name under which a hospital of the embedded study takes part."""
    return name.lower().replace(" ", "-")


def demo_study(count: int = DEFAULT) -> Study:
    """Return some hospitals of the embedded study, under names that a node can bear.

    Raises:
        OptionError: There are not so many.
    """
    if not FEWEST <= count <= len(HOSPITALS):
        raise OptionError(f"--sites is {count}; it takes {FEWEST} to {len(HOSPITALS)}")
    study = embedded_study()
    named = {site_id(site.name): site for site in study.sites}
    return replace(
        study, sites=tuple(replace(named[name], name=name) for name in HOSPITALS[:count])
    )
