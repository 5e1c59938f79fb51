"""The legs that most tests of runs use: one of each kind."""

from __future__ import annotations

from dataclasses import replace

from vdd.config import PRIORS, DebiasConfig, Leg, SamplingConfig


def standard_legs(*, alpha=1.0, beta=0.1, max_new_tokens=16, priors=PRIORS) -> list[Leg]:
    """Greedy, VDD and post-hoc by each reference, alone and together, and sampling with its controls."""
    greedy = SamplingConfig(max_new_tokens=max_new_tokens)
    hot = replace(greedy, temperature=1.0)
    vdd = {name: DebiasConfig(reference=name, alpha=alpha, beta=beta) for name in priors}
    return [
        Leg("greedy", None, greedy),
        *(Leg(f"vdd-{name}", vdd[name], greedy) for name in priors),
        *(Leg(f"posthoc-{name}", None, greedy, post_hoc=name) for name in priors),
        *(Leg(f"vdd+posthoc-{name}", vdd[name], greedy, post_hoc=name) for name in priors),
        Leg("T=1", None, hot),
        Leg("vdd-none@T=1", vdd["none"], hot),
        Leg("cutoff-only@T=1", DebiasConfig(alpha=0.0, beta=beta), hot),
    ]
