"""`vdd demo --train`: the embedded model's bias measured, made into pairs, trained out, and measured again."""

from __future__ import annotations

from pathlib import Path


def train_demo(out: Path, seed: int, seeds: int) -> None:
    """Do the circle for `seeds` seeds from `seed` on, and write `circle.md` and its figure.

    Args:
        out: a new or empty folder, or one of `vdd demo`; a run that was killed goes on where it was.
        seed: the first.
        seeds: how many, ≥ 1.

    Raises:
        UserError: where the extra `train` is missing, or `out` holds something else.
    """
    from vdd._check import whole
    from vdd.cli.demo import MARK
    from vdd.cli.show import new_folder, notes, progress, say, show_table
    from vdd.data import write_atomic
    from vdd.plots import can_chart
    from vdd.plots_training import circle_chart
    from vdd.preference.train import check_installed

    whole("demo", "seeds", seeds, low=1)
    check_installed()
    if not (out / MARK).is_file():
        new_folder(out)
    write_atomic(out / MARK, "Made by `vdd demo`: test questions and pictures, answers, scores, tables, figures.\n")
    with notes.status("loading the embedded model"):
        import torch
        from transformers.utils import logging

        from vdd.preference.circle import FOLDER, circle
        from vdd.preference.circle_report import COLUMNS, chart_rows, read_circle, table, write_report

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        torch.set_num_threads(1)  # too small to gain from more
    for number in range(seed, seed + seeds):
        with progress(f"seed {number}") as advance:
            circle(out, seed=number, progress=advance)
    wanted = range(seed, seed + seeds)
    done = [one for one in read_circle(out) if one.seed in wanted]
    show_table("\nThe embedded model on its test scenes, in %", COLUMNS, table(done))
    say(f"table:    {write_report(out, done)}")
    if can_chart():
        circle_chart("The circle on the embedded model", chart_rows(done), out / "circle.png")
        say(f"figure:   {out / 'circle.png'}")
    else:
        say("for the figure: pip install 'visual-debias-decoding[plot]'")
    say(f"pairs, adapters, curves and answers: {out / FOLDER}")
