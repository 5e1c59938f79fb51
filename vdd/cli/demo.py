"""`vdd demo`: the problem and the cure on the embedded model, in under a minute on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SPLITS = ("random", "popular", "adversarial")
MARK = "ABOUT.txt"
"""Says whose folder it is, to people and to the next run."""

LOOKED_AT = 64
"""Questions whose likeliest first tokens are drawn, with the image and without."""

CAPTIONED = 24
"""Pictures that break the world's habits and get described."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder for questions, answers, scores and pictures.")] = Path("vdd-demo"),
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    train: Annotated[
        bool, typer.Option("--train", help="Train the bias out (extra `train`, some minutes) and measure again.")
    ] = False,
    seeds: Annotated[int, typer.Option(help="With --train: how many seeds, from --seed on.")] = 1,
) -> None:
    """Measure a small model that answers from its prior, debias it, measure again; all offline."""
    if train:
        from vdd.cli.demo_train import train_demo

        train_demo(out, seed, seeds)
        return
    from vdd.analysis.studies import first_tokens
    from vdd.analysis_answers import confidence_parts
    from vdd.analysis_figures import draw_confidence, draw_likeliest
    from vdd.answer_page import Shown, answer_page
    from vdd.cli.explain import show_explained
    from vdd.cli.models import open_pipeline
    from vdd.cli.show import new_folder, notes, progress, say, show_table
    from vdd.config import DebiasConfig, SamplingConfig
    from vdd.data import load_questions, write_atomic
    from vdd.finished import read_run
    from vdd.job import Run
    from vdd.plots import Example, accuracy_chart, can_chart, example_sheet
    from vdd.protocol import Settings, protocol_legs
    from vdd.report import COLUMNS, evaluate, markdown, table
    from vdd.runner import run
    from vdd.toy.examples import LONGEST, describe_both_ways
    from vdd.toy.questions import DESCRIBE, write_split

    data = out / "data"
    if not (out / MARK).is_file():
        new_folder(out)
    write_atomic(out / MARK, "Made by `vdd demo`: test questions and pictures, answers, scores, tables, figures.\n")
    with notes.status("loading the embedded model, drawing its test pictures"):
        pipeline = open_pipeline("toy", debias=DebiasConfig())
        write_split(data, "test")
    settings = Settings.given(pipeline.priors, alpha=DebiasConfig().alpha, beta=DebiasConfig().beta)
    legs = protocol_legs(settings, max_new_tokens=4, repeats=1)
    results = {}
    for split in SPLITS:
        questions = load_questions(data / f"pope_{split}.json", labels=("yes", "no"))
        job = Run("toy", questions, data / "images", legs, batch_size=32, seed=seed)
        with progress(f"{split} questions") as advance:
            run(pipeline, job, out / split, progress=advance)
        results[split] = evaluate(out / split, names=("pope", "toy", split), seed=seed)
    for split in SPLITS:
        show_table(f"\n{split} questions (n = {results[split][0].score.values['n']})", COLUMNS, table(results[split]))
    write_atomic(out / "table.md", "\n".join(f"### {split}\n\n{markdown(results[split])}" for split in SPLITS))

    with progress("descriptions") as advance:
        described = describe_both_ways(pipeline, CAPTIONED, progress=advance)
    changed = [pair for pair in described if pair.before != pair.after]
    mended = [pair for pair in changed if pair.wrong_before and not pair.wrong_after]
    shown = (mended[:2] + [pair for pair in changed if pair not in mended] + mended[2:])[:3]
    examples = [
        Example(pair.image, DESCRIBE, pair.truth, pair.before, pair.after, pair.wrong_before, pair.wrong_after)
        for pair in shown
    ]
    summary = (
        f"{len(described)} pictures that break the world's habits: debiasing changes {len(changed)} descriptions; "
        f"{sum(bool(p.wrong_before) for p in described)} are wrong before, "
        f"{sum(bool(p.wrong_after) for p in described)} after"
    )
    say(f"\n{summary}")
    say("the first two that it mends, and the first that it changes without mending:\n")
    for example in examples:
        say(f"plain     {example.before}\ndebiased  {example.after}\ntruth     {example.truth}\n")
    sampling = SamplingConfig(max_new_tokens=LONGEST)
    explained = [
        Shown(
            pair.image,
            DESCRIBE,
            {
                "plain": pipeline.explain(pair.image, DESCRIBE, sampling=sampling),
                "debiased": pipeline(pair.image, DESCRIBE, sampling=sampling),
            },
            truth=pair.truth,
        )
        for pair in shown
    ]
    if explained:
        say("what the words of the first one owe to the image:\n")
        show_explained(list(explained[0].answers.items()))
    write_atomic(out / "reliance.html", answer_page(explained))
    say(f"\nwords by what they owe to the image: {out / 'reliance.html'}")
    example_sheet(summary, examples, out / "examples.png")
    say(f"pictures: {out / 'examples.png'}")
    if can_chart():
        panels = {split: [(row.leg.name, row.score) for row in results[split]] for split in SPLITS}
        accuracy_chart("The embedded model on its test questions", panels, out / "accuracy.png")
        say(f"figure:   {out / 'accuracy.png'}")
        compared = ("vdd-none", "posthoc-none")
        sure = confidence_parts(read_run(out / "adversarial"), ("yes", "no"), legs=compared, seed=seed)
        said = first_tokens(pipeline, questions[:LOOKED_AT], data / "images")
        drawn = draw_confidence(sure, out) + draw_likeliest(said, out)
        say(f"figures:  {', '.join(str(path) for path in drawn if path.suffix == '.png')}")
    else:
        say("for the chart of accuracies: pip install 'visual-debias-decoding[plot]'")
    say(f"table, answers and scores: {out}")
