"""Data sets in the folders that their publishers ship, read as they are.

Each is looked for under its name in the folder of data sets. Pictures are cut to a centred square
and averaged down to the side that is asked for. Where files tell whose they are, rows of a patient
are a group; where they do not, near-copies are, and the rows say so.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

from dflmoe.data.layouts.breakhis import breakhis, breakhis_sr
from dflmoe.data.layouts.medmnist import CLASSES, medmnist
from dflmoe.data.layouts.odir5k import odir5k
from dflmoe.data.layouts.polyps import polyps
from dflmoe.data.layouts.sleep_edf import sleep_edf
from dflmoe.data.rows import Rows

LAYOUTS: Mapping[str, Callable[[Path | None, int | None], Rows]] = {
    "breakhis": breakhis,
    "breakhis_sr": breakhis_sr,
    "polyps": polyps,
    "odir5k": odir5k,
    "sleep_edf": sleep_edf,
    **{name: functools.partial(medmnist, name=name) for name in CLASSES},
}
"""Sets that are read from folders as their publishers ship them."""
