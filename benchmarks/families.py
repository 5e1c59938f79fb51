"""The README's table of families, from the test reports of the suite under each version of transformers.

    pytest tests/test_families.py -m "not gpu" --junitxml new.xml      (and again with another transformers, old.xml)
    python benchmarks/families.py new.xml old.xml         writes the table into README.md
    python benchmarks/families.py new.xml old.xml --check says whether it is the one that README.md holds

Several reports under one version count together. A family works under a version if each of its tests passed there.
"""

from __future__ import annotations

import argparse
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.zoo import MEMBERS  # noqa: E402
from tests.zoo.member import REFERENCES  # noqa: E402

BEGIN, END = "<!-- begin: families -->", "<!-- end: families -->"


@dataclass
class Result:
    """One family under one version: what passed, and whether anything failed."""

    works: set[str] = field(default_factory=set)
    failed: bool = False


def results(report: Path) -> tuple[str, dict[str, Result]]:
    """A report's version of transformers, and each family's result."""
    found: dict[str, Result] = {}
    version = ""
    for case in ElementTree.parse(report).iter("testcase"):
        noted = [(item.get("name", ""), item.get("value", "")) for item in case.iter("property")]
        family = next((value for name, value in noted if name == "family"), None)
        if family is None:
            continue
        version = next(value for name, value in noted if name == "transformers")
        result = found.setdefault(family, Result())
        result.failed |= case.find("failure") is not None or case.find("error") is not None
        result.works |= {value for name, value in noted if name == "works"}
    return version, found


def rows(reports: Iterable[Path]) -> Iterator[str]:
    """The table's lines."""
    by_version: dict[str, dict[str, Result]] = {}
    for version, found in map(results, reports):
        for family, result in found.items():
            whole = by_version.setdefault(version, {}).setdefault(family, Result())
            whole.failed |= result.failed
            whole.works |= result.works
    versions = list(by_version)
    yield f"| family | {' | '.join(versions)} | references | notes |"
    yield "| --- |" + " --- |" * (len(versions) + 2)
    for member in MEMBERS:
        own = {version: found[member.name] for version, found in by_version.items() if member.name in found}
        cells = [_cell(own.get(version)) for version in versions]
        common = set.intersection(*(result.works for result in own.values())) if own else set()
        references = ", ".join(name for name in REFERENCES if name in common)
        several = "several images" if "mixed batches" in common and member.max_images > 1 else "one image a prompt"
        notes = "; ".join(filter(None, (several, member.notes)))
        yield f"| {member.name} | {' | '.join(cells)} | {references} | {notes} |"


def _cell(result: Result | None) -> str:
    if result is None:
        return "–"
    return "fails" if result.failed else "works"


def main() -> None:
    """Write the table, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    start, stop = text.index(BEGIN) + len(BEGIN), text.index(END)
    made = list(rows(given.reports))
    if given.check and made[1:] != text[start:stop].strip().splitlines()[1:]:  # a newer version is no other result
        sys.exit("README.md's table of families is not what the tests say: run this script without --check")
    if not given.check:
        readme.write_text(text[:start] + "\n" + "\n".join(made) + "\n" + text[stop:], encoding="utf-8")


if __name__ == "__main__":
    main()
