"""Federated learning without a server: hospitals lend each other light heads and mix them.

import dflmoe

result = dflmoe.simulate([dflmoe.Site("north", dataset, body, head), ...])
print(result)
result.report("runs/mine/report.html")
"""

from importlib.metadata import version

from dflmoe.core.algorithm import Algorithm, run_round
from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.site import Network, SiteData, SiteState
from dflmoe.core.training import Training
from dflmoe.errors import DataError, DflmoeError, HeadError, OptionError, OutputError
from dflmoe.pilot.simulation import Result, Site, simulate

__version__ = version("dflmoe")

__all__ = [
    "Algorithm",
    "DFLMoE",
    "DataError",
    "DflmoeError",
    "Dials",
    "HeadError",
    "Network",
    "OptionError",
    "OutputError",
    "Result",
    "Site",
    "SiteData",
    "SiteState",
    "Training",
    "__version__",
    "run_round",
    "simulate",
]
