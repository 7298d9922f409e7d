"""Every error this package raises on purpose; each has an exit code and a line in docs/errors.md.

DflmoeError
├── DataError                the data cannot be used
│   ├── DataFileError        a file is missing, unreadable or of an unknown kind
│   ├── PickleError          an array file holds pickled objects
│   ├── ColumnError          a column is unknown or cannot be turned into numbers
│   ├── LabelError           the label is missing, continuous or of one kind only
│   └── SiteError            a site is too small or has one class, or there is one site only
├── SchemaError              a schema file is missing, malformed or contradictory
├── OptionError              an option has a value that makes no sense
├── OutputError              the output folder cannot be written
├── MissingExtraError        a part of the package is not installed
├── HeadError                a lent head does not fit or must not be used
├── NetworkError             a network is unknown, cannot be split, or does not fit its task
├── ExperimentError          an experiment is unknown, or its file is malformed or contradictory
└── TrainingError            training ran into numbers that are not finite
"""

from typing import ClassVar


class DflmoeError(Exception):
    """Base class: catch this to catch everything the package raises on purpose."""

    exit_code: ClassVar[int] = 1


class DataError(DflmoeError):
    """The data cannot be used."""

    exit_code = 3


class DataFileError(DataError):
    """A data file is missing, unreadable or of an unknown kind."""

    exit_code = 4


class PickleError(DataError):
    """An array file holds pickled objects, which are never loaded."""

    exit_code = 5


class ColumnError(DataError):
    """A column is unknown or cannot be turned into numbers."""

    exit_code = 6


class LabelError(DataError):
    """The label is missing, continuous or of one kind only."""

    exit_code = 7


class SiteError(DataError):
    """A site is too small or has one class, or there is one site only."""

    exit_code = 8


class SchemaError(DflmoeError):
    """A schema file is missing, malformed or contradictory."""

    exit_code = 9


class OptionError(DflmoeError):
    """An option has a value that makes no sense."""

    exit_code = 10


class OutputError(DflmoeError):
    """The output folder cannot be written."""

    exit_code = 11


class MissingExtraError(DflmoeError):
    """A part of the package is not installed."""

    exit_code = 12


class HeadError(DflmoeError):
    """A lent head does not fit the federation's specification or was changed on its way."""

    exit_code = 13


class TrainingError(DflmoeError):
    """Training ran into numbers that are not finite."""

    exit_code = 14


class NetworkError(DflmoeError):
    """A network is unknown, cannot be split, or does not fit its task."""

    exit_code = 15


class ExperimentError(DflmoeError):
    """An experiment is unknown, or its file is malformed or contradictory."""

    exit_code = 16
