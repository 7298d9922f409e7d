"""Federated learning without a server: hospitals lend each other light heads and mix them.

Example::

    import dflmoe

    result = dflmoe.simulate([dflmoe.Site("north", dataset, body, head), ...])
    print(result)
    result.report("runs/mine/report.html")
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dflmoe.core.algorithm import Algorithm, run_round
    from dflmoe.core.dflmoe import DFLMoE
    from dflmoe.core.dials import Dials
    from dflmoe.core.site import Network, SiteData, SiteState
    from dflmoe.core.training import Training
    from dflmoe.errors import DataError, DflmoeError, HeadError, OptionError, OutputError
    from dflmoe.model.model import Model
    from dflmoe.model.model import load_model as load
    from dflmoe.pilot.simulation import Result, Site, simulate

__version__ = version("dflmoe")

__all__ = [
    "Algorithm",
    "DFLMoE",
    "DataError",
    "DflmoeError",
    "Dials",
    "HeadError",
    "Model",
    "Network",
    "OptionError",
    "OutputError",
    "Result",
    "Site",
    "SiteData",
    "SiteState",
    "Training",
    "__version__",
    "load",
    "run_round",
    "simulate",
]

_AT = {
    "dflmoe.core.algorithm": ("Algorithm", "run_round"),
    "dflmoe.core.dflmoe": ("DFLMoE",),
    "dflmoe.core.dials": ("Dials",),
    "dflmoe.core.site": ("Network", "SiteData", "SiteState"),
    "dflmoe.core.training": ("Training",),
    "dflmoe.errors": ("DataError", "DflmoeError", "HeadError", "OptionError", "OutputError"),
    "dflmoe.model.model": ("Model", "load"),
    "dflmoe.pilot.simulation": ("Result", "Site", "simulate"),
}
"""Where each name is defined: a command does not wait for what only a simulation needs."""

_NAMED = {"load": "load_model"}
"""What is called otherwise where it is defined."""


def __getattr__(name: str) -> object:
    for module, names in _AT.items():
        if name in names:
            return getattr(import_module(module), _NAMED.get(name, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
