"""Kinds of prediction: what a head puts out, how wrong it is, and the scores people read."""

from dflmoe.tasks.catalogue import TASKS, UNITS, Kind, scored_by

__all__ = ["TASKS", "UNITS", "Kind", "scored_by"]
