"""Works timed in turn in one process, their medians and ratios; JSON and a bar chart out.

A ratio compares medians of runs that alternate, so that a machine whose speed drifts does not favour one of them.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.progress import Progress

Work = Callable[[], Any]


def in_turn(works: Mapping[str, Work], rounds: int, *, warm: int = 1, what: str = "") -> dict[str, list[float]]:
    """Seconds of each work by round, the first rounds left out."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    with Progress(transient=True) as bar:
        task = bar.add_task(what, total=(rounds + warm) * len(works))
        for number in range(rounds + warm):
            for name, work in works.items():
                seconds = timed(work)
                if number >= warm:
                    taken[name].append(seconds)
                bar.advance(task)
    return taken


def timed(work: Work) -> float:
    """Seconds of one run, the accelerator's queue included."""
    _wait()
    start = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratios(taken: Mapping[str, Sequence[float]], floor: str) -> dict[str, dict[str, float]]:
    """Median, minimum and maximum seconds of each work, and its median over the floor's."""
    base = statistics.median(taken[floor])
    return {
        name: {
            "seconds": statistics.median(values),
            "min": min(values),
            "max": max(values),
            "ratio": statistics.median(values) / base,
        }
        for name, values in taken.items()
    }


def machine(device: str) -> dict[str, Any]:
    """What was measured on."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def read(out: Path, name: str) -> dict[str, Any]:
    """The rows that `name`.json in `out` holds already, which another call goes on from."""
    file = out / f"{name}.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))["rows"]) if file.exists() else {}


def write(out: Path, name: str, body: Mapping[str, Any]) -> None:
    """`name`.json in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def show(title: str, rows: Sequence[tuple[str, Mapping[str, Any]]], columns: Sequence[str]) -> None:
    """Print a table."""
    width = max(len(name) for name, _ in rows)
    print(f"\n{title}\n{'':{width}}  " + "  ".join(f"{column:>10}" for column in columns))
    for name, row in rows:
        cells = [f"{row[c]:>10.3f}" if isinstance(row.get(c), float) else f"{row.get(c, '')!s:>10}" for c in columns]
        print(f"{name:{width}}  " + "  ".join(cells))


def bars(out: Path, name: str, panels: Mapping[str, Mapping[str, float]], unit: str) -> None:
    """A chart of ratios, one panel each, the floor at 1; left out where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        print("no figure: pip install 'visual-debias-decoding[plot]'")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    tallest = max(map(len, panels.values()))
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(3.6 * len(panels) + 1.2, 0.34 * tallest + 1.3), squeeze=False, layout="constrained"
    )
    for axis, (title, values) in zip(axes[0], panels.items(), strict=True):
        names = list(values)[::-1]
        drawn = axis.barh(names, [values[one] for one in names], color="#4477aa")
        axis.bar_label(drawn, fmt="%.2f", padding=3, fontsize=8)
        axis.axvline(1.0, color="#888888", linewidth=0.8)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(unit, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.16)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(out / f"{name}.png", dpi=150)
    pyplot.close(figure)
