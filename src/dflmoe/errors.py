"""Every error raised on purpose; each has an exit code and a line in docs/reference/errors.md.

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
├── NetworkError             a network is unknown, cannot be split, or does not fit
├── ExperimentError          an experiment is unknown, or its file is malformed or contradictory
├── StoreError               the store of a node cannot be opened, read or written
├── ExchangeError            nothing can be exchanged: a folder or a network is not there
├── SettingsError            a node's settings are missing, malformed or contradictory
├── RunningError             a node runs already, or none does
├── ModelError               a file is no model, or cannot be used as one
├── PageError                the live page cannot be served
├── ShareError               a report that a site shared cannot be believed or used
├── PrivacyError             a promise of privacy cannot be given, or is used up
├── UnsoundError             the doctor, or the check of data, found what keeps a node from running
├── TrainingError            training ran into numbers that are not finite, or came to nothing
└── SecurityError            something must not be trusted
    ├── KeyFileError         a key or certificate file is missing, unreadable or open to others
    ├── EnvelopeError        a document is too large, malformed or of another kind
    ├── UnknownKeyError      a document is signed with a key that may not sign it
    ├── SignatureError       a signature does not match
    ├── FederationError      a document is meant for another federation, charter or site
    ├── ReplayError          a document is not newer than the one that is held
    ├── ExpiredError         a document was valid until a day that is past
    ├── RosterError          a roster contradicts itself, or what was trusted before
    ├── FingerprintError     a fingerprint is not the one that was told by phone
    ├── EquivocationError    a site signed two heads of one number
    ├── PolicyError          a site's policy is malformed, or lets something not in
    └── TamperedError        an audit log was changed, or contradicts what peers keep
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
    """Training ran into numbers that are not finite, or came to nothing."""

    exit_code = 14


class NetworkError(DflmoeError):
    """A network is unknown, cannot be split, or does not fit its task."""

    exit_code = 15


class ExperimentError(DflmoeError):
    """An experiment is unknown, or its file is malformed or contradictory."""

    exit_code = 16


class SecurityError(DflmoeError):
    """Something must not be trusted."""

    exit_code = 17


class KeyFileError(SecurityError):
    """A key or certificate file is missing, unreadable or open to others."""

    exit_code = 18


class EnvelopeError(SecurityError):
    """A document is too large, malformed or of another kind."""

    exit_code = 19


class UnknownKeyError(SecurityError):
    """A document is signed with a key that may not sign it."""

    exit_code = 20


class SignatureError(SecurityError):
    """A signature does not match."""

    exit_code = 21


class FederationError(SecurityError):
    """A document is meant for another federation, charter or site."""

    exit_code = 22


class ReplayError(SecurityError):
    """A document is not newer than the one that is held."""

    exit_code = 23


class ExpiredError(SecurityError):
    """A document was valid until a day that is past."""

    exit_code = 24


class RosterError(SecurityError):
    """A roster contradicts itself, or what was trusted before."""

    exit_code = 25


class FingerprintError(SecurityError):
    """A fingerprint is not the one that was told by phone."""

    exit_code = 26


class EquivocationError(SecurityError):
    """A site signed two heads of one number."""

    exit_code = 27


class StoreError(DflmoeError):
    """The store of a node cannot be opened, read or written."""

    exit_code = 28


class ExchangeError(DflmoeError):
    """Nothing can be exchanged: a folder or a network is not there."""

    exit_code = 29


class SettingsError(DflmoeError):
    """A node's settings are missing, malformed or contradictory."""

    exit_code = 30


class RunningError(DflmoeError):
    """A node runs already where one should begin, or none where one should be told something."""

    exit_code = 31


class UnsoundError(DflmoeError):
    """The doctor, or the check of data, found something that keeps a node from running."""

    exit_code = 32


class ModelError(DflmoeError):
    """A file is no model, or cannot be used as one."""

    exit_code = 35


class PageError(DflmoeError):
    """The live page cannot be served: its address is taken, malformed, or none of this machine."""

    exit_code = 36


class ShareError(DflmoeError):
    """A report that a site shared is forged, of another federation, or told twice."""

    exit_code = 37


class PrivacyError(DflmoeError):
    """A promise of privacy that is asked for cannot be given honestly, or is used up."""

    exit_code = 38


class PolicyError(SecurityError):
    """A site's policy is malformed, or lets something not in."""

    exit_code = 33


class TamperedError(SecurityError):
    """An audit log was changed, or contradicts what peers keep."""

    exit_code = 34
