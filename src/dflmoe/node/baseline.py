"""What a site has before it borrows anything: its rows, prepared, and its best model alone."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dflmoe.baselines.alone import Alone, alone
from dflmoe.baselines.local import LocalOnly
from dflmoe.core.auto import Exchange
from dflmoe.core.site import Network, SiteData
from dflmoe.core.streaming import streaming, with_more
from dflmoe.data.one_site import read_site, read_unlabelled
from dflmoe.data.prepared import data_of, splits_of
from dflmoe.data.source import OwnEncoder, Source
from dflmoe.data.splits import Splits
from dflmoe.data.study import SiteRows
from dflmoe.data.weights import read_weights
from dflmoe.errors import SettingsError
from dflmoe.networks.encoder import encoded_by, encoder
from dflmoe.networks.public import public_body, weights_for
from dflmoe.node.agreed import network_of, training_of
from dflmoe.node.node import ALONE
from dflmoe.security.charter import Charter
from dflmoe.types import SiteId


@dataclass(frozen=True)
class Baseline:
    """A site that has not borrowed anything yet.

    Attributes:
        rows: All of its rows.
        splits: Its one split: rows to learn from in folds, and rows that are set aside.
        data: The same, as the method takes them, with what the site has alone.
        network: Whose head it lends.
        alone: The best model that it has alone.
    """

    rows: SiteRows
    splits: Splits
    data: SiteData
    network: Network
    alone: Alone


def rows_of(charter: Charter, where: Source, site: SiteId) -> SiteRows:
    """Return the rows of a site, if they can be learnt from and tested on.

    Raises:
        DataError: They cannot be read, or are too few.
        SchemaError: The charter's columns are none, or malformed.
    """
    return read_site(
        where, site, classes=charter.classes, shape=charter.shape, columns=charter.columns
    ).checked(charter.classes)


def baseline(charter: Charter, where: Source, site: SiteId, *, seed: int) -> Baseline:
    """Read and split a site's rows, and train what it has alone.

    Raises:
        DataError: The rows cannot be used.
        NetworkError: The charter's network does not fit them.
        SettingsError: Public weights or rows are not those that the charter names.
        FloatingPointError: A loss is not finite.
    """
    rows = rows_of(charter, where, site)
    splits = splits_of(
        rows, folds=where.test_folds, inner_folds=charter.inner_folds, seed=seed, only=(0,)
    )
    data = data_of(rows, splits, anchors=_anchors(charter, where.anchors))
    network = _with_public_body(network_of(charter), charter, where.public_body)
    network = _with_own_encoder(network, charter, where.encoder)
    network = streaming(network, None if rows.streamed is None else rows.streamed.rows)
    if data.anchors is not None:
        network, anchors = with_more(network, data.anchors)
        data = replace(data, anchors=anchors)
    local = LocalOnly(network, training_of(charter))
    had = alone(site, data, local, seed=seed, purpose=ALONE)
    return Baseline(rows, splits, replace(data, alone=had.said), network, had)


def _with_public_body(network: Network, charter: Charter, path: Path | None) -> Network:
    """Return the network with the public weights that the charter names.

    Raises:
        SettingsError: They are not given, or others than the charter names.
        DataFileError: They cannot be read.
        NetworkError: They do not fit the charter's network.
    """
    if charter.public_body is None:
        return network
    given = read_weights(_as_named(charter.public_body, path, "public weights", "public_body"))
    shape, classes = charter.shape, len(charter.classes)
    weights, _ = weights_for(given, charter.network, shape, classes, at=charter.head_from)
    return public_body(network, weights)


PRIVATE: frozenset[Exchange] = frozenset({"anchored", "paper"})
"""Exchanges in which what a feature means is each site's own affair."""


def _with_own_encoder(network: Network, charter: Charter, own: OwnEncoder | None) -> Network:
    """Return the network with the site's own encoder for its body.

    Raises:
        SettingsError: The charter's bodies are not the sites' own.
        DataFileError: The weights cannot be read.
        NetworkError: They do not fit, or the encoder does not go before the charter's head.
    """
    if own is None:
        return network
    if charter.exchange not in PRIVATE or charter.public_body is not None:
        raise SettingsError(
            f"the charter's bodies are not the sites' own (exchange {charter.exchange}), so this "
            f"site cannot have an encoder of its own; leave [data.encoder] out"
        )
    body = encoder(
        read_weights(own.weights), own.network, charter.shape, network.width, at=own.head_from
    )
    return encoded_by(network, body, own.network, charter.shape, own.head_from)


def _anchors(charter: Charter, path: Path | None) -> NDArray[np.float32] | None:
    """Return the public rows that the charter names.

    Raises:
        SettingsError: They are not given, or others than the charter names.
        DataFileError: They are not of the charter's shape.
    """
    if charter.anchors is None:
        return None
    given = _as_named(charter.anchors, path, "public rows", "anchors")
    return read_unlabelled(given, shape=charter.shape, columns=charter.columns)


def _as_named(named: str, path: Path | None, what: str, key: str) -> Path:
    """Return a file if it is the one that the charter names by its SHA-256.

    Raises:
        SettingsError: It is not given, cannot be read, or is another.
    """
    if path is None:
        raise SettingsError(f"the charter names {what}; say where they are with {key} in [data]")
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise SettingsError(f"{what} {path} cannot be read: {error.strerror or error}") from error
    if found != named:
        raise SettingsError(f"{path} holds other {what} than the charter names")
    return path
