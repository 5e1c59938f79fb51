"""What an analysis of the embedded model costs: seconds, and peak memory, which must not grow with the questions.

python benchmarks/speed/analyse.py --out runs/speed [--questions 125 500]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from turns import machine, show, write

from vdd.toy.questions import write_split


def main() -> None:
    """Measure, print, write analyse.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--questions", nargs="*", type=int, default=[125, 500], help="in rising order")
    parser.add_argument("--name", default="analyse")
    parser.add_argument("--shortest", action="store_true", help="to see that it runs")
    args = parser.parse_args()
    if args.shortest:
        args.questions = [8]
    rows: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as folder:
        data = Path(folder)
        write_split(data / "test", "test")
        for number in args.questions:
            command = [sys.executable, "-m", "vdd", "analyse", "--limit", str(number), "--out", str(data / str(number))]
            command += ["--questions", str(data / "test/pope_adversarial.json"), "--images", str(data / "test/images")]
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
            rows[f"{number} questions"] = {
                "seconds": seconds,
                "of a core": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
                "peak MiB": after.ru_maxrss / 2**10,  # of the largest so far: the order rises
            }
    show("vdd analyse, the embedded model", list(rows.items()), ["seconds", "of a core", "peak MiB"])
    write(args.out, args.name, {"machine": machine("cpu"), "rows": rows})


if __name__ == "__main__":
    main()
