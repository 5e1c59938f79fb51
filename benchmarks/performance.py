"""Put measured speeds into docs/PERFORMANCE.md: tables from the JSON files of benchmarks/speed, and their pictures.

python benchmarks/performance.py runs/speed
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from readme import README, ROOT, between

PAGE = ROOT / "docs" / "PERFORMANCE.md"
COLUMNS = {
    "decode": ("ms a token", "tokens/s", "ratio", "blind", "ran"),
    "pope": ("seconds", "questions/s", "ratio", "over runner"),
    "pope-shape": ("seconds", "questions/s", "ratio", "over runner"),
    "memory": ("before", "peak", "ratio"),
    "growth": ("ms a token", "ratio", "ran"),
    "contrast": ("log_softmax", "contrast", "ratio"),
}
"""File → the columns that its table shows."""


def cell(value: Any) -> str:
    """A number with as many places as it needs; else its text."""
    if not isinstance(value, (int, float)):
        return str(value)
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def table(rows: Sequence[tuple[str, Mapping[str, Any]]], columns: Sequence[str]) -> str:
    """A table in Markdown."""
    lines = [f"|  | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    lines += [f"| {name} | {' | '.join(cell(row.get(column, '')) for column in columns)} |" for name, row in rows]
    return "\n".join(lines) + "\n"


def body(name: str, found: Mapping[str, Any]) -> str:
    """What stands between the marks of one benchmark: the machine, and a table for each of its points."""
    machine = ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    parts = [f"{machine}\n"]
    rows = found["rows"]
    if isinstance(rows, list):
        named = [(f"batch {row['batch']}, vocabulary {row['vocab']}", row) for row in rows]
        parts.append(table(named, COLUMNS[name]))
    elif "title" in found:
        parts += [f"**{found['title']}**\n", table(list(rows.items()), COLUMNS[name])]
    else:
        for title, own in rows.items():
            parts += [f"**{title}**\n", table(list(own.items()), COLUMNS[name])]
    return "\n".join(parts)


def cost(found: Mapping[str, Any]) -> str:
    """The README's short table: what was wanted, what plain decoding and two passes cost, what was reached."""
    decode, shape, pope = found["decode"]["rows"], found["pope-shape"]["rows"], found["pope"]["rows"]
    rows = []
    for title, best, what in (
        ("embedded, batch 1", "auto", "greedy text, batch 1, embedded model"),
        ("embedded, batch 8", "auto", "greedy text, batch 8, embedded model"),
        ("0.2b, batch 1", "auto (replayed)", "greedy text, batch 1, 0.2 B shape, 576 image tokens, decisions replayed"),
    ):
        own = decode[title]
        rows.append(
            (what, own["processor, two-pass"]["ratio"], own["VCD (noise), two-pass"]["ratio"], own[best]["ratio"])
        )
    for own, what in ((pope, "embedded model"), (shape, "0.2 B shape, 576 image tokens")):
        loops = own["VDD loop, two-pass"]["ratio"], own["VCD loop, two-pass"]["ratio"]
        rows.append((f"POPE a question, VDD + post-hoc, {what}", *loops, own["runner, VDD + post-hoc"]["ratio"]))
    lines = ["| plain decoding = 1 | VDD, two passes | VCD | `vdd` |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {what} | {two:.2f} | {vcd:.2f} | {own:.2f} |" for what, two, vcd, own in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Rewrite docs/PERFORMANCE.md and the pictures beside it, and the README's short table."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        raise SystemExit("usage: python benchmarks/performance.py DIR, where the scripts of benchmarks/speed wrote")
    folder = Path(sys.argv[1])
    found = {}
    for name in COLUMNS:
        file = folder / f"{name}.json"
        if file.exists():
            found[name] = json.loads(file.read_text(encoding="utf-8"))
        else:
            print(f"{file}: not there; its table stays as it is")
    text = PAGE.read_text(encoding="utf-8")
    for name, own in found.items():
        text = between(text, name, body(name, own))
        picture = folder / f"{name}.png"
        if picture.exists():
            shutil.copyfile(picture, PAGE.parent / f"speed-{name}.png")
    PAGE.write_text(text, encoding="utf-8")
    if {"decode", "pope", "pope-shape"} <= set(found):
        README.write_text(between(README.read_text(encoding="utf-8"), "cost", cost(found)), encoding="utf-8")


if __name__ == "__main__":
    main()
