"""Federations too large for all to hear all, or for memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.made import made_data, made_rows

from dflmoe.core.algorithm import Outcome
from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.training import Training
from dflmoe.errors import MissingExtraError, OptionError
from dflmoe.networks import plain
from dflmoe.simulation import machine as machines
from dflmoe.simulation.federation import Played, play
from dflmoe.simulation.machine import Machine, machine_named
from dflmoe.simulation.peers import Everybody, Given, Sampled, peers_of
from dflmoe.wire.payload import ENVELOPE_BYTES

SITES = [f"site-{k}" for k in range(30)]


def outcome(worth: dict[str, float], share: dict[str, float] | None = None) -> Outcome:
    none = torch.zeros(1)
    said = torch.zeros(1, 1, 2)
    return Outcome(
        said,
        said,
        said,
        none > 0,
        {peer: torch.tensor([v]) for peer, v in (share or {}).items()},
        {},
        none,
        none,
        worth={peer: torch.tensor([v]) for peer, v in worth.items()},
    )


def test_a_site_hears_as_many_peers_as_it_is_meant_to_and_never_itself() -> None:
    peers = Sampled(SITES, 8, seed=0)
    for number in range(20):
        heard = peers.heard("site-3", number, None)
        assert len(set(heard)) == len(heard) == 8
        assert "site-3" not in heard


def test_useful_peers_are_kept_and_others_tried() -> None:
    peers, worth = Sampled(SITES, 8, seed=0), {f"site-{k}": 0.1 * k for k in range(1, 9)}
    tried = set()
    for number in range(200):
        heard = peers.heard("site-0", number, outcome({**worth, "site-20": -1.0}))
        assert {f"site-{k}" for k in range(3, 9)} <= set(heard)  # six of eight, the most useful
        tried |= set(heard[6:])
    assert tried == set(SITES) - {"site-0"} - {f"site-{k}" for k in range(3, 9)}


def test_a_head_that_harms_is_heard_by_chance_only() -> None:
    peers = Sampled(SITES, 4, seed=0)
    heard = [peers.heard("site-0", n, outcome({"site-1": -0.1, "site-2": 0.0})) for n in range(200)]
    assert sum("site-1" in one for one in heard) < 60  # of 200; by chance 4 of 29


def test_without_worth_the_weight_says_who_is_useful() -> None:
    peers = Sampled(SITES, 4, seed=0)
    share = {"site-0": 0.5, "site-0 (own network)": 0.3, "site-5": 0.2}
    heard = peers.heard("site-0", 1, outcome({}, share))
    assert heard[0] == "site-5"
    assert "site-0" not in heard


def test_who_is_heard_depends_on_seed_site_and_round_alone() -> None:
    def heard(seed: int, site: str, number: int) -> list[str]:
        return list(Sampled(SITES, 5, seed).heard(site, number, None))

    assert heard(0, "site-1", 2) == heard(0, "site-1", 2)
    assert (
        len({tuple(heard(*key)) for key in ((0, "site-1", 2), (1, "site-1", 2), (0, "site-1", 3))})
        == 3
    )


@pytest.mark.parametrize(
    ("hears", "kind"),
    [(None, Everybody), (29, Everybody), (100, Everybody), (3, Sampled), ({"site-0": []}, Given)],
)
def test_who_hears_whom_is_chosen_by_what_is_given(
    hears: dict[str, list[str]] | int | None, kind: type
) -> None:
    assert isinstance(peers_of(hears, SITES, 0), kind)


# A federation of its own.

STEPS = Training(weight_decays=(0.1,), max_steps=5)
DATA = {site: made_data(made_rows(site, 24, k)) for k, site in enumerate(SITES[:9])}


def played(machine: Machine | None = None, *, history: bool = True) -> Played:
    return play(
        dict.fromkeys(DATA, DFLMoE(plain(4, 2), Dials(mixture_steps=3, max_age=0), STEPS)),
        DATA,
        rounds=3,
        seed=0,
        purpose="t",
        hears=3,
        machine=machine,
        history=history,
    )


def test_what_a_site_holds_and_pays_is_of_the_peers_it_hears() -> None:
    found = played()
    for site in DATA:
        assert len(found.states[site].experts) == 3
        assert found.messages == 2 * 3 * 3
    one = found.payload_bytes[SITES[0]] + ENVELOPE_BYTES
    assert sum(found.sent_bytes.values()) == len(DATA) * 3 * 3 * one


@pytest.mark.parametrize("company", [1, 4])
def test_sites_that_wait_on_disk_play_the_very_same(tmp_path: Path, company: int) -> None:
    kept, paged = played(Machine(company=company)), played(Machine(company=company, pages=tmp_path))
    assert len(list(tmp_path.iterdir())) == len(DATA)
    for site in DATA:
        for a, b in zip(kept.outcomes[site], paged.outcomes[site], strict=True):
            assert torch.equal(a.served, b.served)
        ours, theirs = kept.states[site], paged.states[site]
        assert ours.params.keys() == theirs.params.keys()
        for part, params in ours.params.items():
            assert all(torch.equal(p, theirs.params[part][n]) for n, p in params.items())
        assert paged.seconds[site] > 0


def test_without_history_the_last_outcome_is_kept_and_is_the_same() -> None:
    whole, last = played(), played(history=False)
    for site in DATA:
        assert len(last.outcomes[site]) == 1
        assert torch.equal(last.outcomes[site][0].served, whole.outcomes[site][-1].served)
    assert not any(last.lent.values())
    assert not last.states


# What is named and is not there.


def test_a_machine_is_what_is_named() -> None:
    machine = machine_named("cpu", workers=3)
    assert (machine.device.type, machine.executor, machine.cores) == ("cpu", "threads", 3)
    assert machine_named("cpu").cores >= 1


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ({"executor": "slurm"}, "--executor is 'slurm'"),
        ({"precision": "fp8"}, "--precision is 'fp8'"),
        ({"workers": 0}, "--workers is 0"),
    ],
)
def test_no_such_machine_is_refused(named: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        machine_named("cpu", **named)


def test_an_executor_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"dflmoe\[ray\]"):
        machine_named("cpu", executor="ray")
