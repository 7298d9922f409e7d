"""``dflmoe privacy``: what this site's heads tell of patients, and what its promises allow."""

import json
from typing import Annotated

import typer
from rich.console import Console

from dflmoe.cli.options import HOME, HomeOption, JsonOption
from dflmoe.cli.site import home_of
from dflmoe.cli.store import store_of
from dflmoe.errors import PrivacyError
from dflmoe.node.private import limit_of
from dflmoe.node.spending import budget_of, noises
from dflmoe.privacy.noise import CLIP, STEPS, Budget, heads_for, spent
from dflmoe.security.policy import POLICY, Policy

app = typer.Typer(help="What heads that are lent tell of patients.")


@app.command()
def show(*, home: HomeOption = HOME, as_json: JsonOption = False) -> None:
    """Show limits and promises, what is spent of them, and what the last audits found.

    Example: dflmoe privacy show
    """
    here = home_of(home)
    policy, store = Policy.load(here.folder / POLICY), store_of(home)
    budget = budget_of(policy)
    audited, withheld = (store.newest_entry(kind) for kind in ("audited", "withheld"))
    told: dict[str, object] = {
        "max_attack_auc": limit_of(here.charter, policy),
        "audited": audited.told if audited else None,
        "withheld": withheld.told if withheld else None,
        "epsilon_per_head": policy.epsilon_per_head,
        "epsilon_budget": policy.epsilon_budget,
        "delta": policy.delta if budget else None,
        "heads": len(noises(store)),
        "epsilon_spent": spent(noises(store), policy.delta) if budget else None,
        "heads_allowed": heads_for(budget) if budget else None,
    }
    if as_json:
        typer.echo(json.dumps(told, indent=1))
        return
    console = Console(highlight=False)
    for line in _lines(told):
        console.print(line, markup=False)


@app.command()
def plan(
    *,
    epsilon: Annotated[float, typer.Option(help="What one head may tell of any patient.")],
    rounds: Annotated[
        int, typer.Option(help="Heads that will be made: one whenever the rows have changed.")
    ] = 1,
    budget: Annotated[
        float | None,
        typer.Option(help="What all heads may tell; what they need if not given."),
    ] = None,
    delta: Annotated[float, typer.Option(help="Chance that the bound does not hold.")] = 1e-5,
    patients: Annotated[int, typer.Option(help="Patients of this site.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Say what a promise costs before it is made.

    Example: dflmoe privacy plan --epsilon 2 --rounds 4 --budget 5
    """
    if rounds < 1 or patients < 1:
        raise PrivacyError("--rounds and --patients take 1 or more")
    wanted = Budget(epsilon, epsilon if budget is None else budget, delta)
    noise = wanted.noise
    total = spent([noise] * rounds, delta)
    if budget is not None and total > budget:
        raise PrivacyError(
            f"{rounds} heads of epsilon {epsilon:g} spend {total:.2f} and the budget is "
            f"{budget:g}, which lasts for {heads_for(wanted)}; allow more, or lend less often"
        )
    told = {
        "epsilon_per_head": epsilon,
        "delta": delta,
        "heads": rounds,
        "epsilon_of_all": round(total, 4),
        "noise": round(noise.sigma, 4),
        "steps": STEPS,
        "noise_of_a_step": round(noise.sigma * CLIP / patients, 4),
    }
    if as_json:
        typer.echo(json.dumps(told, indent=1))
        return
    moved = noise.sigma * CLIP / patients
    typer.echo(
        f"{rounds} heads of epsilon {epsilon:g} tell epsilon {total:.2f} together "
        f"(delta {delta:g}).\n"
        f"A head is made in {STEPS} steps. Each adds noise of {noise.sigma:.1f} times the most "
        f"that a patient counts:\nwith {patients} patients {moved:.3f} to every weight of a mean "
        f"gradient that measures {CLIP:g} at most."
    )


def _lines(told: dict[str, object]) -> list[str]:
    """Return that for people."""
    limit, audit = told["max_attack_auc"], told["audited"]
    lines = ["No limit is set on what an attack may tell." if limit is None else f"Limit: {limit}."]
    if isinstance(audit, dict):
        lines.append(
            f"Last audit, round {audit['round']}: an attack ({audit['attack']}) tells training "
            f"rows from others with AUROC {audit['auc']:.2f} [{audit['low']:.2f}, "
            f"{audit['high']:.2f}]; 0.5 tells nothing."
        )
    else:
        lines.append("No head was audited yet.")
    if isinstance(told["withheld"], dict):
        kept = told["withheld"]
        lines.append(f"Last head that was not lent, round {kept['round']}: {kept['why']}.")
    if told["epsilon_spent"] is None:
        lines.append("No differential privacy is promised (epsilon_per_head in policy.toml).")
    else:
        lines.append(
            f"Spent: epsilon {told['epsilon_spent']:.2f} of {told['epsilon_budget']} (delta "
            f"{told['delta']}) in {told['heads']} heads; the budget lasts for "
            f"{told['heads_allowed']}."
        )
    return lines
