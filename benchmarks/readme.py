"""Put measured results into the documents: a demo's tables and pictures, the output of the README's lines of code.

vdd demo && python benchmarks/readme.py vdd-demo
vdd demo --train --seeds 3 --out vdd-circle && python benchmarks/readme.py vdd-circle
python benchmarks/speed/bdhs.py --out vdd-speed && python benchmarks/readme.py vdd-speed

What a folder holds decides what is written: table.md into README.md, circle.md and bdhs.md into docs/ALIGNMENT.md.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
ALIGNMENT = ROOT / "docs" / "ALIGNMENT.md"
PICTURES = ("examples.png", "accuracy.png", "circle.png")


def between(document: Path, name: str, body: str) -> None:
    """Put `body` between the marks `begin: name` and `end: name` of a document."""
    text = document.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- begin: {name} -->\n).*?(<!-- end: {name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{document.name} has no marks for {name}")
    document.write_text(pattern.sub(lambda found: found[1] + body + found[2], text), encoding="utf-8")


def run_code(name: str) -> None:
    """Run the README's lines of code of this name, and put what they print beneath them."""
    code = re.search(rf"<!-- ci: {name} -->\n```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    if code is None:
        raise SystemExit(f"README.md has no block of code behind <!-- ci: {name} -->")
    ran = subprocess.run([sys.executable, "-c", code[1]], check=True, capture_output=True, text=True)
    between(README, f"output {name}", f"```text\n{ran.stdout.strip()}\n```\n")


def main() -> None:
    """Rewrite what the given folders hold results for."""
    folders = [Path(name) for name in sys.argv[1:]]
    tables = {"table.md": (README, "table"), "circle.md": (ALIGNMENT, "circle"), "bdhs.md": (ALIGNMENT, "bdhs")}
    found = [(folder, name) for folder in folders for name in tables if (folder / name).is_file()]
    if not found:
        raise SystemExit(f"usage: python benchmarks/readme.py DIR…, folders with {', '.join(tables)}")
    for name in ("code", "preference"):
        run_code(name)
    for folder, name in found:
        between(*tables[name], (folder / name).read_text(encoding="utf-8"))
    for picture in (folder / name for folder in folders for name in PICTURES):
        if picture.is_file():
            shutil.copyfile(picture, ROOT / "docs" / picture.name)


if __name__ == "__main__":
    main()
