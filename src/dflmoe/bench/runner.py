"""Play all runs of an experiment: on every core, resumable, one record a run."""

import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import groupby
from pathlib import Path

import torch

from dflmoe import __version__
from dflmoe.bench.experiment import Experiment, RunSetting, TaskSetting
from dflmoe.bench.methods import revision, title
from dflmoe.bench.play import PLAIN_MACHINE, play_run
from dflmoe.bench.record import RunRecord, played_elsewhere, save, stored
from dflmoe.errors import ExperimentError
from dflmoe.simulation.cores import available_cores
from dflmoe.simulation.machine import Machine

logger = logging.getLogger(__name__)

QUICK_ROWS = 48
"""Rows of a site at most in a quick run."""

POLL_S = 0.5
"""Seconds between two looks for new records."""


def plan(
    experiment: Experiment,
    *,
    quick: bool,
    seeds: Sequence[int] | None = None,
    tasks: Collection[str] = (),
    methods: Collection[str] = (),
    root: Path | None = None,
) -> list[RunSetting]:
    """Return the runs of an experiment, seed by seed, so that what is there first says most.

    Args:
        experiment: What to play.
        quick: One seed, few methods, few rows and steps.
        seeds: To play; as many as the experiment says, from 0, if not given.
        tasks: Those to play; all if empty.
        methods: Those to play; all if empty.
        root: The folder of data sets; where a set is not in it, its stand-in is played.

    Raises:
        ExperimentError: A task or method is unknown.
    """
    played = (experiment.quick_tasks if quick else ()) or experiment.tasks
    called = experiment.quick_methods if quick else experiment.methods
    for method in (*called, *methods):
        title(method)
    for task in tasks:
        experiment.task(task)
    at_hand = {task: experiment.task(task).at_hand(root) for task in tasks or played}
    return [
        RunSetting(
            experiment=experiment.name,
            task_name=task,
            task=shortened(at_hand[task]) if quick else at_hand[task],
            method=method,
            condition=condition,
            seed=seed,
            quick=quick,
            version=__version__,
            revision=revision(method),
        )
        for seed in (seeds or range(1 if quick else experiment.seeds))
        for task in at_hand
        for condition in experiment.conditions
        if task in (condition.tasks or (task,))
        for method in (methods or called)
        if method in methods or method not in experiment.left_out.get(task, ())
    ]


def shortened(task: TaskSetting) -> TaskSetting:
    """Return a task with fewer rows and steps: enough to see that all works, not to claim."""
    learning = task.learning
    rounds = max(2, learning.rounds // 5)
    shorter = learning.model_copy(
        update={"rounds": rounds, "steps": rounds * learning.local_steps, "patience": 2}
    )
    rows = min(task.max_rows, QUICK_ROWS) if task.max_rows else None
    return task.model_copy(update={"learning": shorter, "max_rows": rows, "inner_folds": 2})


def pending(settings: Sequence[RunSetting], folder: Path) -> list[RunSetting]:
    """Return the runs that have no record yet; one that failed is not played again."""
    return [setting for setting in settings if stored(folder, setting) is None]


def run_all(
    settings: Sequence[RunSetting],
    folder: Path,
    *,
    root: Path | None,
    jobs: int,
    machine: Machine = PLAIN_MACHINE,
    begun: Callable[[int], None] = lambda _: None,
) -> Iterator[RunRecord]:
    """Play the runs that have no record yet and yield each record once it is stored.

    Killed at any point and started again, it loses the runs in flight and nothing else. Runs that
    differ only in their method are played by one process, which deals the rows once.

    Args:
        settings: The runs.
        folder: Where records lie.
        root: The folder of data sets.
        jobs: Processes.
        machine: On what each of them plays.
        begun: Told how many runs there are to play.

    Raises:
        ExperimentError: A process was killed from outside.
    """
    left = pending(settings, folder)
    begun(len(left))
    if jobs == 1:
        for setting in left:
            yield _play_and_save(setting, folder, root, machine)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker)
    try:
        tasks = {
            pool.submit(_play_cell, list(cell), folder, root, machine)
            for _, cell in groupby(left, key=lambda setting: setting.cell)
        }
        while left:
            done, tasks = wait(tasks, timeout=POLL_S, return_when=FIRST_COMPLETED)
            for setting in left.copy():
                record = stored(folder, setting)
                if record is not None:
                    left.remove(setting)
                    yield record
            for task in done:
                task.result()
    except BrokenProcessPool as error:
        raise ExperimentError(
            "a process of the bench was killed, perhaps for want of memory; start the same command "
            "again to go on, with fewer --jobs if it happens again"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        if left:  # somebody stopped it: a run in flight may take minutes, and is not waited for
            for child in multiprocessing.active_children():
                child.terminate()


def _play_cell(
    settings: Sequence[RunSetting], folder: Path, root: Path | None, machine: Machine
) -> None:
    for setting in settings:
        _play_and_save(setting, folder, root, machine)


def _start_worker() -> None:
    """Keep a process on one core, behind people at work.

    Its threads take turns at Python anyway; on one core they do not wait for each other's caches.
    """
    os.nice(5)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the starting process's to handle
    torch.set_num_threads(1)
    cores = sorted(available_cores())
    (number,) = multiprocessing.current_process()._identity[:1] or (0,)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cores[number % len(cores)]})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Leave no process behind when the one that started it was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _play_and_save(
    setting: RunSetting, folder: Path, root: Path | None, machine: Machine
) -> RunRecord:
    """Play a run and store its record in the same process, so that it outlives the others.

    What another experiment in the folder has played already is not played again.
    """
    try:
        record = played_elsewhere(folder, setting) or play_run(setting, root, machine)
    except Exception as error:  # one run must not stop the others, whatever happened in it
        logger.exception("%s", setting.label)
        record = RunRecord(
            digest=setting.digest,
            setting=setting,
            status="failed",
            reason=f"{type(error).__name__}: {error}",
        )
    save(record, folder)
    return record
