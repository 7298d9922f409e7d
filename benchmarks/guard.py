"""How often the guard is wrong on few rows.

Run it as ``python benchmarks/guard.py``. Simulated sites compare a mixture with the own model out
of fold; the difference in log-loss varies between patients with a standard deviation of 0.5. That
is an assumption: with a smaller one the guard sees more. The vouched rule should turn away
harm, the other rule should let in benefit.
"""

import torch

from dflmoe.core.guard import difference, mixture_is_used

SITES = 20_000
SPREAD = 0.5
ROWS = (20, 50, 200)
EFFECTS = (-0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2)


def used(rows: int, effect: float, *, vouched: bool) -> float:
    """Return how often a mixture is used that differs by ``effect`` in log-loss."""
    rng = torch.Generator().manual_seed(rows)
    d = effect + SPREAD * torch.randn(SITES, rows, generator=rng)
    bounds = difference(d, torch.ones_like(d) > 0, torch.arange(rows), confidence=0.8)
    return float(mixture_is_used(bounds, vouched=vouched).float().mean())


def main() -> None:
    """Print a table for each rule."""
    for vouched in (True, False):
        rule = "unless evidence of harm (vouched)" if vouched else "on evidence of benefit only"
        print(f"\nmixture used {rule}; effect < 0 is a better mixture")
        print("rows  " + "".join(f"{effect:>8.2f}" for effect in EFFECTS))
        for rows in ROWS:
            shares = (used(rows, effect, vouched=vouched) for effect in EFFECTS)
            print(f"{rows:>4}  " + "".join(f"{share:>8.2f}" for share in shares))


if __name__ == "__main__":
    main()
