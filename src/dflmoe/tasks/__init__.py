"""Kinds of prediction: what a head puts out, how wrong it is, and the scores people read."""

from dflmoe.tasks.catalogue import TASKS, Kind

__all__ = ["TASKS", "Kind"]
