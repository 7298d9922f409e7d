"""A body that reads its rows says what it would say of rows in memory."""

import copy
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.made import made_data, made_rows, noise, one_split
from tests.streams import (
    LARGE,
    everything,
    features,
    looked_at,
    many,
    never,
    small,
    source,
    summing,
)
from torch import Tensor, nn

from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.site import Lent, SiteData
from dflmoe.core.streaming import Make, Streaming, streaming, with_more
from dflmoe.core.training import Training
from dflmoe.data.formats import Format
from dflmoe.data.listing import listed
from dflmoe.data.reading import Several, rows_of
from dflmoe.data.reads import Reads
from dflmoe.data.source import Source
from dflmoe.networks import mlp
from dflmoe.networks.images import small_cnn
from dflmoe.types import generator


class Counting:
    """A format that counts how often each file is decoded."""

    def __init__(self, format_: Format) -> None:
        self.extent, self.belongs, self.parts = format_.extent, format_.belongs, format_.parts
        self._format, self.read_files = format_, Counter[Path]()

    def read(self, file: Path, at: int) -> NDArray[np.float32]:
        self.read_files[file] += 1
        return self._format.read(file, at)


def counted(where: Source) -> tuple[Reads, Counter[Path]]:
    """Return rows that stream, and how often each has been decoded since."""
    listing = listed(where)
    format_ = Counting(listing.format)
    reads, _ = Reads(replace(listing, format=format_), where).looked_at(never)
    assert set(format_.read_files.values()) == {1}
    format_.read_files.clear()
    return reads, format_.read_files


def test_a_body_that_stays_as_it_is_reads_every_row_once(tmp_path: Path) -> None:
    reads, times = counted(small(many(tmp_path)))
    body = summing()
    wrapped = Streaming(body, reads, keeps=True)
    whole = body(everything(reads, 40))
    times.clear()
    for numbers in ([3], [3, 5, 3], list(range(40)), list(range(39, -1, -1))):
        said = copy.deepcopy(wrapped)(torch.tensor(numbers).float())
        torch.testing.assert_close(said, whole[numbers])
    assert len(times) == 40
    assert set(times.values()) == {1}
    other = summing()
    torch.testing.assert_close(
        Streaming(other, reads, keeps=True)(torch.arange(40.0)), other(everything(reads, 40))
    )


def test_features_that_take_too_much_memory_are_made_each_time(tmp_path: Path) -> None:
    reads, times = counted(small(many(tmp_path)))
    body = nn.Flatten()  # as large as the rows
    torch.testing.assert_close(features(reads, body), everything(reads, 40).flatten(1))
    features(reads, body)
    assert set(times.values()) == {3}


def test_several_sources_keep_the_features_of_their_own_rows(tmp_path: Path) -> None:
    parts = [counted(small(many(tmp_path / name))) for name in ("ann", "bob")]
    several, body = Several([reads for reads, _ in parts]), summing()
    whole = body(everything(several, 80))
    for _, times in parts:
        times.clear()
    mixed = torch.tensor([79, 0, 41, 3, 79])
    said = Streaming(body, several, keeps=True)(mixed.float())
    torch.testing.assert_close(said, whole[mixed])
    torch.testing.assert_close(features(several, body, 80), whole)
    for _, times in parts:
        assert (len(times), set(times.values())) == (40, {1})
    assert features(several, body, 0).shape == (0, 3)


def test_several_threads_keep_the_features_of_one_source(tmp_path: Path) -> None:
    reads, body = looked_at(small(many(tmp_path))), summing()
    whole = body(everything(reads, 40))
    said: dict[int, Tensor] = {}

    def work(start: int) -> None:
        numbers = torch.arange(40).roll(start)
        with torch.no_grad():
            said[start] = Streaming(body, reads, keeps=True)(numbers.float()).roll(-start, 0)

    threads = [threading.Thread(target=work, args=(10 * k,)) for k in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    for found in said.values():
        torch.testing.assert_close(found, whole)


@pytest.mark.parametrize("common", [False, True], ids=["learning", "common"])
def test_training_on_rows_that_stream_is_training_on_rows_in_memory(
    tmp_path: Path, *, common: bool
) -> None:
    plain = rows_of(source(many(tmp_path), size=LARGE))
    streams = rows_of(small(tmp_path))
    assert streams.streamed is not None
    network = small_cnn(1, 2, width=4, common=common)
    plan = Training(weight_decays=(0.1, 0.01), max_steps=2, judge_every=1, batch=8, memory=1)
    found = []
    for x, net in (
        (plain.x, network),
        (streams.x, streaming(network, streams.streamed.rows)),
    ):
        data = SiteData(
            torch.from_numpy(x)[None], torch.from_numpy(plain.y), one_split(40), torch.arange(40)
        )
        method, rng = DFLMoE(net, training=plan), generator(3, "test")
        state = method.init("ann", data, rng)
        state, lent = method.prepare(state, data, rng)
        found.append((state.params, lent.tensors, method.own_log_probs(state, data)))
    (params, head, said), (streamed_params, streamed_head, streamed_said) = found
    torch.testing.assert_close(streamed_head, head)
    torch.testing.assert_close(
        {name.removeprefix("body."): p for name, p in streamed_params["body"].items()},
        params["body"],
    )
    torch.testing.assert_close(streamed_said, said)


def test_a_network_that_has_its_rows_is_left_alone() -> None:
    network = small_cnn(1, 2)
    assert streaming(network, None) is network


class Held:
    """Rows in memory, by their numbers."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.shape = x, tuple(x.shape[1:])

    def __call__(self, numbers: Tensor) -> Tensor:
        assert (numbers >= 0).all()
        return self.x[numbers]

    def keep(self, made_by: str, shape: tuple[int, ...], numbers: Tensor, make: Make) -> Tensor:
        assert made_by
        made = make(numbers)
        assert made.shape[1:] == shape
        return made


@pytest.mark.parametrize("keeps", [False, True])
def test_rows_in_memory_are_given_beside_those_that_are_read(*, keeps: bool) -> None:
    own, first, second = noise(1, 5, 4), noise(2, 3, 4), noise(3, 2, 4)
    network = replace(mlp(4, 2, hidden=3), common=keeps)
    reading, one = with_more(streaming(network, Held(own)), first)
    reading, two = with_more(reading, second)
    numbers = torch.cat([one, torch.arange(5.0), two])
    with torch.no_grad():
        said = reading.body(numbers)
        torch.testing.assert_close(said, network.body(torch.cat([first, own, second])))
    assert with_more(network, first) == (network, first)


def test_a_site_that_streams_learns_from_public_rows_as_any_other() -> None:
    dials = Dials(body="private", vouched=False, distil=1.0, align="anchored", gate="selected")
    plan = Training(weight_decays=(0.01,), learning_rate=0.02, max_steps=4, memory=1)
    network, anchors = mlp(4, 2, hidden=6), noise(5, 20, 4)

    def played(name: str, inbox: list[Lent], *, streams: bool) -> tuple[Lent, Tensor]:
        data = made_data(made_rows(name, 60, 3)).only(0)
        net, given = network, anchors
        if streams:
            net, given = with_more(streaming(network, Held(data.x[0])), anchors)
            data = replace(data, x=torch.arange(60.0)[None])
        data = replace(data, anchors=given)
        algorithm = DFLMoE(net, dials, plan)
        state = algorithm.init(name, data, generator(1))
        state, lent = algorithm.prepare(state, data, generator(2))
        _, outcome = algorithm.absorb(state, inbox, data, generator(3))
        return lent, outcome.mixture

    peer, _ = played("bob", [], streams=False)
    (plain, mixed), (read, read_mixed) = (
        played("ann", [peer], streams=streams) for streams in (False, True)
    )
    torch.testing.assert_close(read.tensors, plain.tensors, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(read_mixed, mixed, rtol=1e-3, atol=1e-4)


def test_new_rows_stand_beside_rows_that_stream(tmp_path: Path) -> None:
    rows = rows_of(small(many(tmp_path))).sites("ann")[0]
    assert rows.streamed is not None
    new = noise(1, 3, 1, *LARGE)
    network, numbers = with_more(streaming(small_cnn(1, 2), rows.streamed.rows), new)
    assert isinstance(network.body, Streaming)
    torch.testing.assert_close(network.body.rows(numbers.long()), new)
