"""What influence is worth and what it costs, into docs/INFLUENCE.md, whatever it says.

python benchmarks/influence.py --out runs/influence

The worth: `vdd influence validate`. The cost: 100,000 random pairs of cached features under linear heads, in a process
of its own; the floor beside it is a training pass (forward and backward) through the same batches.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks" / "speed"))

import torch  # noqa: E402
from torch import nn  # noqa: E402
from turns import machine, timed, write  # noqa: E402

from vdd.cli.influence_validate import validated  # noqa: E402
from vdd.data import write_atomic  # noqa: E402
from vdd.influence import ECIF, Pairs, Towers, ValidationPairs  # noqa: E402
from vdd.influence.validation import Plan  # noqa: E402
from vdd.influence_report import Table, markdown, pipes, read  # noqa: E402

PAGE = ROOT / "docs" / "INFLUENCE.md"
PICTURES = ("leave-one-out", "removal", "detection")
BATCH, PARTITIONS, CURVED, ASKED = 1024, 4, 4096, 2048
SECONDS, MEBIBYTES, PASSES = 120.0, 2048.0, 1.5
"""Wanted at most: to sweep all pairs, of memory, and training passes a partition and query after the solve."""


def cost(pairs: int, width: int) -> dict[str, Any]:
    """Seconds and peak memory of scoring so many random pairs of so wide features."""
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> torch.Tensor:
        return torch.randn(count, width, generator=generator)

    heads = [nn.Linear(width, width, bias=False) for _ in range(2)]
    for head in heads:
        head.weight = nn.Parameter(draw(width) / width**0.5)
    towers = Towers(*heads, log_scale=nn.Parameter(torch.tensor(2.0)), chunk=BATCH)
    data = Pairs(draw(pairs), draw(pairs), range(pairs), torch.arange(pairs))
    query = ValidationPairs(draw(min(ASKED, pairs)), draw(min(ASKED, pairs)), batch_size=BATCH)
    curved = min(CURVED, pairs)
    ecif = ECIF(towers, data, partitions=PARTITIONS, batch_size=BATCH, curvature_pairs=curved, tolerance=1e-4)
    ecif.precondition(ecif.theta)  # else its seconds were the solve's
    direction, how = ecif.direction(query)
    embeddings = timed(lambda: ecif.point.embeddings)
    began = time.perf_counter()
    tangents = ecif.point.tangents(direction)
    along = time.perf_counter() - began
    sweeps, passes, peaks = [], [], []
    for number, partition in enumerate(ecif.objective.partitions):
        sweeps.append(timed(lambda number=number: ecif.sweep(number, tangents)))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)
        alone = replace(ecif.objective, partitions=[partition])
        passes.append(timed(lambda alone=alone: alone.at(ecif.theta).gradient()))
    swept, one_pass = embeddings + along + sum(sweeps), statistics.median(passes)
    total = ecif.preparation.seconds + how.seconds + swept
    return {
        "machine": machine("cpu"),
        "pairs": pairs,
        "curved": curved,
        "parameters": len(ecif.theta),
        "partitions": len(sweeps),
        "damping": ecif.damping,
        "preparation": asdict(ecif.preparation),
        "solve": {"products": how.products, "seconds": how.seconds, "residual": how.residual},
        "embeddings_seconds": embeddings,
        "tangents_seconds": along,
        "sweep_seconds": statistics.median(sweeps),
        "swept_seconds": swept,
        "pass_seconds": one_pass,
        "passes_a_partition": swept / len(sweeps) / one_pass,
        "passes_of_one_partition_alone": (embeddings + along + statistics.median(sweeps)) / one_pass,
        "brute_force_ratio": pairs * one_pass / total,
        "peak_mebibytes": peaks[0],  # before the first training pass, which has embeddings and slopes of its own
    }


def cost_text(found: dict[str, Any]) -> str:
    """The costs as a table, and in words which goals were reached."""
    goals = {
        f"all {found['pairs']:,} pairs swept, R = {found['partitions']}, s": ("swept_seconds", SECONDS),
        "training passes a partition and query": ("passes_a_partition", PASSES),
        "peak memory of the process, MiB": ("peak_mebibytes", MEBIBYTES),
    }
    rows = [
        [name, f"{found[key]:.3g}" if found[key] < 1000 else f"{found[key]:.0f}", f"{most:g}",
         "yes" if found[key] <= most else "no"]
        for name, (key, most) in goals.items()
    ]  # fmt: skip
    before, solve = found["preparation"], found["solve"]
    said = [
        f"Damping (found to be {found['damping']:.3g}, as random heads are no minimum) and preconditioner: "
        f"{before['products']} products with the curvature, {before['seconds']:.1f} s; "
        f"solve: {solve['products']} products, {solve['seconds']:.1f} s, residual {solve['residual']:.2g}. These do "
        f"not grow with the pairs: the curvature is that of {found['curved']:,} random ones.",
        f"Embeddings {found['embeddings_seconds']:.1f} s, their tangents {found['tangents_seconds']:.1f} s, then "
        f"{found['sweep_seconds']:.1f} s a partition; a training pass (forward and backward) takes "
        f"{found['pass_seconds']:.1f} s. The passes above hold embeddings and tangents too; with one partition alone "
        f"they are {found['passes_of_one_partition_alone']:.2f}.",
        f"Training again without each pair, if one pass each were enough, would take {found['brute_force_ratio']:,.0f} "
        "times as long as all of this.",
    ]
    told = ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    table = Table("", ("", "measured", "wanted at most", "reached"), rows)
    return f"{told}; {found['parameters']:,} parameters, float32.\n\n{pipes(table)}\n\n" + "\n\n".join(said)


INTRODUCTION = """# Which training pairs made it see so: what influence is worth

Made by `python benchmarks/influence.py --out runs/influence`. Scores say how a loss changes when a pair had not been
trained on (`delta_loss_on_removal`, [arXiv:2411.11667](https://arxiv.org/abs/2411.11667)); here they are held against
the truth: the pair is left out and the heads are trained again, to a gradient norm of 1e-8. Two problems, 20 % of the
captions of each exchanged between pairs unless another share is named:

- **linear**: 72 pairs of two noisy linear views, linear heads, batches of 12; all pairs are left out in turn;
- **embedded**: the heads of the embedded CLIP on 400 captioned scenes, batches of 64, four draws of these; the loss is
  that of dev scenes, the accuracy is how many test scenes and captions find each other, in both directions.

Correlations are means over seeds, with 95 % intervals of a bootstrap within seeds; of detection the least and the most
seed are given, as three seeds make no interval. A slope of 1 means that sizes are right too; scores in no unit of loss
have none. “exact, Hessian” and “exact, GGN” are `ECIF(curvature=…)`, “one Newton step” is `edit(step="newton")` of
one pair; “identity Hessian” is the same sweep along the bare gradient of the query, “gradient product” leaves out the
part as a negative too. Edits of several pairs are by the default curvature, GGN. Training again starts at the whole
set's minimum, which flatters it in the comparison of costs.
"""


def main() -> None:
    """Measure; in the full form rewrite the page and its pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=100_000, help="whose cost is measured")
    parser.add_argument("--width", type=int, default=512, help="of their features and embeddings")
    parser.add_argument("--threads", type=int, default=2, help="of torch, where the cost is measured")
    parser.add_argument("--only", choices=("cost", "worth"), help="measure one of both; no page")
    parser.add_argument("--here", action="store_true", help="print the cost in this process alone, as JSON")
    parser.add_argument("--shortest", action="store_true", help="the least sizes, to see that it runs; no page")
    args = parser.parse_args()
    if args.shortest:
        args.pairs, args.width = 512, 64
    if args.here:
        torch.set_num_threads(args.threads)
        print(json.dumps(cost(args.pairs, args.width)))
        return
    if args.only != "cost":
        validated(Plan.shortest() if args.shortest else Plan(), args.out / "validation")
    if args.only == "worth":
        return
    command = [sys.executable, __file__, "--out", str(args.out), "--pairs", str(args.pairs), "--width", str(args.width)]
    command += ["--threads", str(args.threads), "--here"]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(ran.stdout.strip().splitlines()[-1])
    write(args.out, "cost", found)
    print(cost_text(found))
    if args.shortest or args.only:
        return
    shown = "\n".join(f"![](influence-{name}.png)\n" for name in PICTURES)
    worth = markdown(read(args.out / "validation" / "validation.json"))
    write_atomic(PAGE, f"{INTRODUCTION}\n{worth}\n{shown}\n## What a sweep costs\n\n{cost_text(found)}\n")
    for name in PICTURES:
        shutil.copyfile(args.out / "validation" / f"{name}.png", PAGE.parent / f"influence-{name}.png")


if __name__ == "__main__":
    main()
