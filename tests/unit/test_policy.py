"""A site's policy narrows what its charter allows, and fails closed."""

from pathlib import Path

import pytest
from tests.security import manifest

from dflmoe.errors import PolicyError
from dflmoe.security.policy import LARGEST, POLICY, Policy, fewest


def test_a_site_without_a_policy_leaves_all_to_the_charter(tmp_path: Path) -> None:
    none = Policy.load(tmp_path / "policy.toml")
    assert none == Policy()
    none.allows(manifest(rows="0-19"))


def test_what_a_policy_forbids_does_not_come_in(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('lenders = ["ann"]\nmin_rows = 50\ndtypes = ["fp32"]\nmax_norm = 10.0\n')
    policy = Policy.load(path)
    policy.allows(manifest(site="ann", rows="50-99", dtype="fp32"))
    for refused in (
        {"site": "bob", "rows": "50-99"},
        {"site": "ann", "rows": "20-49"},
        {"site": "ann", "rows": "50-99", "dtype": "int8"},
    ):
        with pytest.raises(PolicyError, match="policy here"):
            policy.allows(manifest(**refused))
    assert policy.digest != Policy().digest


def test_a_band_stands_for_its_fewest_rows() -> None:
    assert [fewest(b) for b in ("0-19", "20-49", "500-1999", "2000+")] == [0, 20, 500, 2000]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("lenders = 'ann'", id="no list"),
        pytest.param("lenders = ['../ann']", id="a name that is none"),
        pytest.param("min_rows = -1", id="a negative number"),
        pytest.param("min_rows = 'many'", id="no number"),
        pytest.param("max_norm = nan", id="not a number"),
        pytest.param("max_norm = inf", id="no bound"),
        pytest.param("dtypes = []", id="no dtype"),
        pytest.param("dtypes = ['bf16']", id="an unknown dtype"),
        pytest.param("bytes_per_day = 1.5", id="half a byte"),
        pytest.param("lender = ['ann']", id="a key that nobody knows"),
        pytest.param("lenders = [", id="no TOML"),
        pytest.param("# " + "x" * LARGEST, id="huge"),
    ],
)
def test_a_policy_that_cannot_be_followed_to_the_letter_is_refused(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(PolicyError, match=r"policy\.toml"):
        Policy.load(path)


def test_a_policy_that_is_no_text_or_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyError, match="cannot be read"):
        Policy.load(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(PolicyError, match="cannot be read"):
        Policy.load(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epsilon_per_head = 0\nepsilon_budget = 1\n", "epsilon_per_head: .* greater than 0"),
        ("epsilon_per_head = -1\nepsilon_budget = 1\n", "epsilon_per_head: .* greater than 0"),
        ("epsilon_per_head = 1\n", "give epsilon_per_head and epsilon_budget, or neither"),
        ("epsilon_per_head = 2\nepsilon_budget = 1\n", "does not last for one head"),
        ("epsilon_per_head = 1\nepsilon_budget = inf\n", "epsilon_budget: .* finite"),
        ("delta = 0\n", "delta: .* greater than 0"),
        ("max_attack_auc = 0.4\n", "max_attack_auc: .* greater than 0.5"),
    ],
)
def test_a_policy_that_promises_nonsense_is_refused(
    text: str, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / POLICY
    path.write_text(text)
    with pytest.raises(PolicyError, match=sentence):
        Policy.load(path)
