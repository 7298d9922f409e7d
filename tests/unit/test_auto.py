"""What is played follows from what a federation has."""

import pytest

from dflmoe.bench.methods import BY_EXCHANGE, OURS_BY_NAME, ours
from dflmoe.core.auto import DIALS, WHY, Exchange, exchange_for


@pytest.mark.parametrize(
    ("one_space", "charter", "anchors", "one_network", "expected"),
    [
        pytest.param(True, False, True, True, "shared", id="one feature space needs no anchors"),
        pytest.param(False, True, True, False, "averaged", id="an agreed network beside one's own"),
        pytest.param(True, True, False, True, "averaged", id="agreed on, whatever else there is"),
        pytest.param(False, False, True, False, "anchored", id="public rows and nothing else"),
        pytest.param(False, False, False, True, "seeded", id="one network, trained apart"),
        pytest.param(False, False, False, False, "paper", id="nothing in common"),
    ],
)
def test_the_exchange_follows_from_what_the_sites_have(
    one_space: bool, charter: bool, anchors: bool, one_network: bool, expected: Exchange
) -> None:
    found = exchange_for(
        one_space=one_space, charter=charter, anchors=anchors, one_network=one_network
    )
    assert found == expected
    assert ours("auto", found) is BY_EXCHANGE[found]
    assert ours("paper", found) is OURS_BY_NAME["paper"]
    assert ours("fedavg", found) is None


def test_every_exchange_has_a_guard_and_is_explained() -> None:
    assert set(DIALS) == set(WHY) == set(BY_EXCHANGE)
    assert all(dials.guard for dials in DIALS.values())
    assert all(method.dials.guard for method in BY_EXCHANGE.values())


def test_only_a_common_feature_space_is_vouched_for() -> None:
    vouched = {name for name, dials in DIALS.items() if dials.vouched}
    assert vouched == {"shared", "averaged"}
    assert DIALS["averaged"].hedge  # and even there the mixture serves on evidence only
