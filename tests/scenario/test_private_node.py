"""A node that promises privacy: its account outlives restarts; what it cannot keep is refused."""

import json
import shutil
from pathlib import Path

import opacus.accountants.utils
import opacus.optimizers  # noqa: F401 - processes begin with these, and need not load them
import pytest
import torch
import torch._dynamo
from tests.faults import watched
from tests.hospitals import Clock, Country
from tests.made import made_data, made_rows
from tests.security import CHARTER
from typer.testing import CliRunner

from dflmoe.cli.main import app
from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.site import SiteData
from dflmoe.core.training import Training
from dflmoe.errors import KeyFileError, PrivacyError
from dflmoe.networks import mlp, plain
from dflmoe.node.exchange import MemoryExchange
from dflmoe.node.home import Home
from dflmoe.node.node import Node, RoundSummary
from dflmoe.node.private import check_promise, lender_of
from dflmoe.node.replica import Replica
from dflmoe.node.spending import NOISE_KEY, noise_key
from dflmoe.node.store import STORE, Store
from dflmoe.privacy.noise import Budget
from dflmoe.security.charter import Charter
from dflmoe.security.policy import POLICY, Policy

QUICK = Training(weight_decays=(0.1, 0.01), learning_rate=0.02, max_steps=40)
PROMISE = "epsilon_per_head = 1.0\nepsilon_budget = 1.2\n"
RUNNER = CliRunner()


def data_of(seed: int) -> SiteData:
    return made_data(made_rows("ann", 60, seed)).only(0)


def country_with(folder: Path, policy: str, charter: Charter = CHARTER) -> Country:
    country = Country(folder, "ann", "bob", charter=charter)
    (country.homes["ann"].folder / POLICY).write_text(policy)
    started(country)
    return country


def started(country: Country) -> None:
    """Let ann's node start anew, as after a stop or a kill."""
    country.replicas["ann"].store.close()
    country.replicas["ann"] = country.replica("ann")


def played(country: Country, data: SiteData) -> RoundSummary:
    """Let ann play a round, and bob hear it."""
    ann, bob = country.replicas["ann"], country.replicas["bob"]
    method = DFLMoE(plain(4, 2), Dials(), QUICK, lender=lender_of(ann, plain(4, 2)))
    node = Node(ann, MemoryExchange(ann, [bob]), method, data)
    ((summary, outcome),) = list(node.rounds(until=node.state().round + 1))
    assert torch.isfinite(outcome.served).all()
    return summary


def shown(country: Country, *arguments: str) -> dict[str, object]:
    home = str(country.homes["ann"].folder)
    said = RUNNER.invoke(app, ["privacy", *arguments, "--home", home, "--json"])
    assert said.exit_code == 0, said.output
    found: dict[str, object] = json.loads(said.output)
    return found


def test_what_was_spent_stays_spent_over_restarts_and_the_site_learns_on(tmp_path: Path) -> None:
    country = country_with(tmp_path, PROMISE)
    assert played(country, data_of(1)).withheld is None
    held = country.replicas["bob"].held("ann")
    assert held is not None
    assert held.manifest.privacy is not None
    assert 0.95 < held.manifest.privacy.epsilon <= 1.0
    started(country)
    again = played(country, data_of(1))  # the same rows: the same head, and nothing more is told
    assert again.withheld is None
    assert len(country.replicas["ann"].store.spent()) == 1
    started(country)
    over = played(country, data_of(2))
    assert "the budget is 1.2" in (over.withheld or "")
    assert "goes on learning from others" in (over.withheld or "")
    assert over.number == 3
    log = country.replicas["ann"].store.entries("spent", "withheld")
    assert [entry.kind for entry in log] == ["spent", "withheld"]
    found = shown(country, "show")
    assert found["heads"] == found["heads_allowed"] == 1
    assert found["epsilon_spent"] == pytest.approx(held.manifest.privacy.epsilon)
    assert isinstance(found["withheld"], dict)
    assert found["withheld"]["round"] == 3


def test_a_round_that_is_played_again_lends_the_very_same_private_head(tmp_path: Path) -> None:
    country = country_with(tmp_path, PROMISE)
    ann, data = country.replicas["ann"], data_of(1)
    heads = []
    for _ in range(2):
        method = DFLMoE(plain(4, 2), Dials(), QUICK, lender=lender_of(ann, plain(4, 2)))
        rng = torch.Generator().manual_seed(1)
        _, lent = method.prepare(method.init("ann", data, rng), data, rng)
        heads.append(lent.tensors)
        started(country)
        ann = country.replicas["ann"]
    assert all(torch.equal(p, heads[1][name]) for name, p in heads[0].items())
    assert len(ann.store.spent()) == 1


def test_a_site_that_lost_its_secret_pays_again_for_the_same_rows(tmp_path: Path) -> None:
    country = country_with(tmp_path, PROMISE)
    assert played(country, data_of(1)).withheld is None
    (country.homes["ann"].folder / NOISE_KEY).unlink()
    started(country)
    assert "the budget is 1.2" in (played(country, data_of(1)).withheld or "")


def test_the_stricter_of_charter_and_policy_decides(tmp_path: Path) -> None:
    charter = replace_limit(CHARTER, 0.9)
    country = country_with(tmp_path, "max_attack_auc = 0.51\n", charter)
    summary = played(country, data_of(1))
    store = country.replicas["ann"].store
    (audited,) = store.entries("audited")
    if float(str(audited.told["auc"])) > 0.51:
        assert "above the limit of 0.51" in (summary.withheld or "")
        assert country.replicas["bob"].held("ann") is None
    else:
        assert summary.withheld is None
    assert shown(country, "show")["max_attack_auc"] == 0.51


def replace_limit(charter: Charter, limit: float) -> Charter:
    return charter.model_copy(update={"max_attack_auc": limit})


def test_the_secret_of_the_noise_is_the_site_s_alone(tmp_path: Path) -> None:
    first = noise_key(tmp_path)
    assert noise_key(tmp_path) == first
    path = tmp_path / NOISE_KEY
    assert path.stat().st_mode & 0o077 == 0
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="may be read by others"):
        noise_key(tmp_path)
    path.chmod(0o600)
    path.write_text("no key")
    with pytest.raises(KeyFileError, match="no key of noise"):
        noise_key(tmp_path)


def test_a_promise_for_a_private_body_is_refused_before_anything_is_learnt(tmp_path: Path) -> None:
    policy = Policy(epsilon_per_head=1.0, epsilon_budget=2.0)
    seeded = CHARTER.model_copy(update={"exchange": "seeded", "network": "mlp"})
    with pytest.raises(PrivacyError, match="no epsilon of the head alone would be honest"):
        check_promise(seeded, policy)
    averaged = CHARTER.model_copy(update={"exchange": "averaged"})
    with pytest.raises(PrivacyError, match="every fit in many rounds"):
        check_promise(averaged, policy)
    check_promise(CHARTER, policy)
    check_promise(seeded, Policy())
    country = country_with(tmp_path, PROMISE)
    with pytest.raises(PrivacyError, match="learns from this site's rows"):
        lender_of(country.replicas["ann"], mlp(4, 2))


def test_a_plan_says_what_a_promise_costs() -> None:
    said = RUNNER.invoke(
        app, ["privacy", "plan", "--epsilon", "2", "--rounds", "3", "--patients", "50", "--json"]
    )
    plan = json.loads(said.output)
    assert 2 < plan["epsilon_of_all"] < 6
    assert plan["noise_of_a_step"] == pytest.approx(plan["noise"] / 50, abs=1e-4)
    told = RUNNER.invoke(app, ["privacy", "plan", "--epsilon", "2", "--budget", "5"])
    assert "1 heads of epsilon 2" in told.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--epsilon", "0"], "epsilon is 0"),
        (["--epsilon", "-1"], "epsilon is -1"),
        (["--epsilon", "2", "--rounds", "9", "--budget", "5"], "9 heads of epsilon 2 spend"),
        (["--epsilon", "2", "--rounds", "0"], "take 1 or more"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(arguments: list[str], sentence: str) -> None:
    said = RUNNER.invoke(app, ["privacy", "plan", *arguments])
    assert isinstance(said.exception, PrivacyError)
    assert sentence in str(said.exception)


def test_a_site_that_promises_nothing_says_so(tmp_path: Path) -> None:
    country = country_with(tmp_path, "")
    home = str(country.homes["ann"].folder)
    said = RUNNER.invoke(app, ["privacy", "show", "--home", home])
    assert "No limit is set" in said.output
    assert "No head was audited yet" in said.output
    assert "No differential privacy is promised" in said.output


def plays_at(folder: Path) -> None:
    """Let ann play a round and promise privacy, as a process of its own."""
    torch.set_num_threads(1)
    replicas = [
        Replica(Home(folder / site), Store(folder / site / STORE), Clock())
        for site in ("ann", "bob")
    ]
    lender = lender_of(replicas[0], plain(4, 2))
    method = DFLMoE(plain(4, 2), Dials(), QUICK, lender=lender)
    node = Node(replicas[0], MemoryExchange(replicas[0], replicas[1:]), method, data_of(1))
    list(node.rounds(until=1))


def kept(folder: Path) -> tuple[list[tuple[str, float, int]], int, bytes | None, bytes]:
    """Return what ann spent, how often the log says so, its state and its head."""
    replica = Replica(Home(folder / "ann"), Store(folder / "ann" / STORE), Clock())
    held = replica.held("ann")
    assert held is not None
    store = replica.store
    found = store.spent(), len(store.entries("spent")), store.state(), held.payload
    store.close()
    return found


def test_whenever_a_node_is_killed_a_head_is_paid_for_once_and_before_it_leaves(
    tmp_path: Path, every: int
) -> None:
    noise = Budget(1.0, 1.2, 1e-5).noise
    country = country_with(tmp_path / "before", PROMISE)
    noise_key(country.homes["ann"].folder)
    for replica in country.replicas.values():
        replica.store.close()
    shutil.copytree(tmp_path / "before", tmp_path / "whole")
    moments = watched(plays_at, tmp_path / "whole")
    assert isinstance(moments, int)
    whole = kept(tmp_path / "whole")
    assert [paid[1:] for paid in whole[0]] == [noise]
    assert whole[1] == 1
    for at in range(0, moments, every):
        folder = tmp_path / f"killed at {at}"
        shutil.copytree(tmp_path / "before", folder)
        assert watched(plays_at, folder, blow="killed", at=at) is None
        store = Store(folder / "ann" / STORE)
        assert store.spent() or "ann" not in store.heads()
        store.close()
        assert isinstance(watched(plays_at, folder), int)
        assert kept(folder) == whole, f"at moment {at} of {moments}"
        shutil.rmtree(folder)
