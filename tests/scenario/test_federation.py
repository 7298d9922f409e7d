"""Stories of sites that lend, fall silent, lie and stumble."""

from collections.abc import Mapping

import pytest
import torch
from tests.made import made_data, made_rows

from dflmoe.core.algorithm import Algorithm, Outcome
from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.site import SiteData
from dflmoe.core.training import Training
from dflmoe.errors import TrainingError
from dflmoe.networks import plain
from dflmoe.simulation.faults import Fault
from dflmoe.simulation.federation import Played, play

SITES = ("ann", "bob", "cyd", "dan")
PLAN = Training(weight_decays=(0.1, 0.01))


def federation(rows: int = 300) -> dict[str, SiteData]:
    return {name: made_data(made_rows(name, rows, k)) for k, name in enumerate(SITES)}


def played(faults: Mapping[str, Fault] | None = None, rounds: int = 1) -> Played:
    algorithms: dict[str, Algorithm] = {name: DFLMoE(plain(4, 2), Dials(), PLAN) for name in SITES}
    return play(algorithms, federation(), rounds=rounds, seed=0, purpose="story", faults=faults)


def last(p: Played, site: str) -> Outcome:
    return p.outcomes[site][-1]


def test_the_same_seed_gives_the_same_bits() -> None:
    first, second = played(rounds=2), played(rounds=2)
    for site in SITES:
        torch.testing.assert_close(
            last(first, site).served, last(second, site).served, rtol=0, atol=0
        )


def test_a_silent_peer_costs_only_its_own_head() -> None:
    outcome = last(played({"ann": "silent"}), "bob")
    assert set(outcome.share) == {"bob", "cyd", "dan"}


def test_a_tampered_head_is_refused_with_a_reason_by_everybody() -> None:
    p = played({"ann": "tampered"})
    for site in SITES[1:]:
        assert set(last(p, site).share) == {"bob", "cyd", "dan"}
        assert "changed on its way" in p.refused[site][0]
    silent = played({"ann": "silent"})
    torch.testing.assert_close(last(p, "bob").served, last(silent, "bob").served)


def test_a_poisoned_head_is_set_aside_by_everybody_who_has_rows_to_see_it() -> None:
    p = played({"ann": "poisoned"}, rounds=1)
    for site in SITES[1:]:
        assert last(p, site).quarantined["ann"].all()
        assert not last(p, site).quarantined["cyd"].any()


def test_the_culprit_itself_goes_on_as_before() -> None:
    torch.testing.assert_close(
        last(played({"ann": "silent"}), "ann").served, last(played(), "ann").served
    )


def test_bytes_are_those_of_one_head() -> None:
    p = played()
    numbers = 4 * 2 + 2
    assert 4 * numbers < p.payload_bytes["ann"] < 4 * numbers + 300
    assert p.messages == 6
    assert set(p.seconds) == set(SITES)


def test_a_site_whose_training_fails_is_named_and_nobody_waits_for_ever() -> None:
    data = federation()
    broken = data["cyd"]
    x = broken.x.clone()
    x[0, 0] = torch.nan
    data["cyd"] = SiteData(x, broken.y, broken.crossfit, broken.group)
    algorithms: dict[str, Algorithm] = {name: DFLMoE(plain(4, 2), Dials(), PLAN) for name in SITES}
    with pytest.raises(TrainingError, match="cyd"):
        play(algorithms, data, rounds=1, seed=0, purpose="story")
