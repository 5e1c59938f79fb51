"""Put measured results into the README: the demo's table and pictures, the output of its lines of code.

vdd demo && python benchmarks/readme.py vdd-demo
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def between(text: str, name: str, body: str) -> str:
    """`text` with `body` between the marks `begin: name` and `end: name`."""
    pattern = re.compile(rf"(<!-- begin: {name} -->\n).*?(<!-- end: {name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"README.md has no marks for {name}")
    return pattern.sub(lambda found: found[1] + body + found[2], text)


def main() -> None:
    """Rewrite README.md and the pictures in docs/."""
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "table.md").is_file():
        raise SystemExit("usage: python benchmarks/readme.py DIR, the folder of a finished `vdd demo`")
    demo = Path(sys.argv[1])
    text = README.read_text(encoding="utf-8")
    code = re.search(r"<!-- ci: code -->\n```python\n(.*?)```", text, re.DOTALL)
    if code is None:
        raise SystemExit("README.md has no block of code behind <!-- ci: code -->")
    ran = subprocess.run([sys.executable, "-c", code[1]], check=True, capture_output=True, text=True)
    text = between(text, "output", f"```text\n{ran.stdout.strip()}\n```\n")
    text = between(text, "table", (demo / "table.md").read_text(encoding="utf-8"))
    README.write_text(text, encoding="utf-8")
    for name in ("examples.png", "accuracy.png"):
        shutil.copyfile(demo / name, ROOT / "docs" / name)


if __name__ == "__main__":
    main()
