"""How `vdd analyse` goes: the questions answered, the model looked at, records, figures, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdd.cli import options

if TYPE_CHECKING:
    from vdd.analysis.studies import Study
    from vdd.config import DebiasConfig
    from vdd.pipeline import Pipeline


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The command's options, as they came."""

    questions: Path
    images: Path
    out: Path
    model: str
    labels: str | None
    label_sets: Sequence[str]
    relabelled: Path | None
    subset: str | None
    reference: str
    alpha: float
    beta: float
    question: str | None
    attention: int
    attention_question: str | None
    prompt: str
    batch_size: int
    max_new_tokens: int
    limit: int | None
    seed: int
    device: str | None
    dtype: str
    quantize: str | None


def run_analysis(asked: Asked) -> None:
    """Answer, look, write, print.

    Raises:
        UserError: on options and files that cannot be right, before a model is opened.
    """
    notes: list[str] = []
    answered = options.folder_for_answers(asked.out)
    options.check_images(asked.images)
    study = _study(asked, notes)
    from vdd.analysed import FIGURES, SUMMARY, AttentionShare, forget
    from vdd.analysis.studies import follow, read_file
    from vdd.analysis_answers import write_found
    from vdd.analysis_figures import SHOWN, draw_all
    from vdd.analysis_report import markdown, tables, verdicts
    from vdd.cli.models import open_pipeline
    from vdd.cli.show import progress, say, show_table
    from vdd.data import write_atomic
    from vdd.plots import can_chart

    debias = _debias(asked)
    pipeline = open_pipeline(
        asked.model, debias=debias, device=asked.device, dtype=asked.dtype, quantize=asked.quantize
    )
    study = replace(study, sets=_sets(asked, study.labels, pipeline, notes))
    about = _answer(asked, study, pipeline, answered, notes)
    with progress("what is likely") as advance:
        read_file(pipeline, study, asked.out, about, progress=advance)
    if asked.attention and not pipeline.family.encoder_decoder:
        with progress("attention") as advance:
            follow(
                pipeline,
                study,
                asked.out,
                about,
                count=asked.attention,
                text=asked.attention_question,
                max_new_tokens=asked.max_new_tokens,
                progress=advance,
            )
    else:
        forget(asked.out, [AttentionShare])
        if asked.attention:
            notes.append(f"attention: {type(pipeline.model).__name__} reads prompts by an encoder")
    write_found(
        asked.out, study.labels, asked.images, about, relabelled=asked.relabelled, pictures=SHOWN, seed=asked.seed
    )
    drawn = draw_all(asked.out, charts=can_chart())
    facts = {"model": asked.model, "questions": f"{len(study.questions)} of {asked.questions}"}
    facts |= {
        "labels": ", ".join(study.labels) or "none",
        "debiased by": f"{asked.reference}, α {asked.alpha:g}, β {asked.beta:g}",
    }
    write_atomic(asked.out / SUMMARY, markdown(asked.out, drawn, facts, notes))
    for table in tables(asked.out):
        show_table(table.caption, table.columns, table.rows)
        if table.note:
            say(f"{table.note}\n")
    for sentence in verdicts(asked.out):
        say(sentence)
    for note in notes:
        say(f"left out: {note}")
    if not can_chart():
        say("for the charts: pip install 'visual-debias-decoding[plot]', then `vdd analyse draw`")
    say(f"tables: {asked.out / SUMMARY}; {len(drawn)} figures: {asked.out / FIGURES}")


def _study(asked: Asked, notes: list[str]) -> Study:
    """What is looked at, but for the label sets, which the model's tokenizer must know."""
    from vdd._check import UserError, whole
    from vdd.analysis.prior import label_set, possible_labels
    from vdd.analysis.studies import Study, subsets_of
    from vdd.data import load_questions

    whole("analyse", "attention", asked.attention, low=0)
    if asked.limit is not None:
        whole("analyse", "limit", asked.limit, low=1)
    if asked.relabelled is not None:
        load_questions(asked.relabelled)
    for name in asked.label_sets:
        label_set(name)
    found = load_questions(asked.questions)[: asked.limit]
    labels = possible_labels(found, asked.labels)
    if not labels:
        notes.append("language bias, accuracy by confidence: the questions have no few labels; give them as --labels")
    if {*labels} == {"yes", "no"}:
        found = [q if q.label is None else replace(q, label=q.label.strip().lower()) for q in found]
    single = None
    if asked.question is not None:
        single = next((q.question_id for q in found if str(q.question_id) == asked.question), None)
        if single is None:
            raise UserError(f"{asked.questions}: has no question_id {asked.question!r} among those that are asked.")
    return Study(
        found,
        asked.images,
        labels=labels,
        subsets={} if asked.subset is None else subsets_of(asked.questions, asked.subset, found),
        prompt=asked.prompt,
        batch_size=asked.batch_size,
        single=single,
    )


def _debias(asked: Asked) -> DebiasConfig:
    from vdd._check import choice
    from vdd.config import PRIORS, DebiasConfig

    choice("analyse", "reference", asked.reference, PRIORS)
    return DebiasConfig(reference=asked.reference, alpha=asked.alpha, beta=asked.beta)


def _sets(asked: Asked, labels: Sequence[str], pipeline: Pipeline, notes: list[str]) -> dict[str, Sequence[str]]:
    """The label sets whose prior is looked at; of those that have a name, what the tokenizer can tell apart."""
    from vdd.analysis.prior import SETS, known_words, label_set
    from vdd.families import tokenizer_of

    tokenizer = tokenizer_of(pipeline.processor)
    found: dict[str, Sequence[str]] = {}
    for name in asked.label_sets:
        words = label_set(name)
        if name in SETS:
            kept = known_words(words, pipeline.tokens, tokenizer.unk_token_id)
            if kept != words:
                notes.append(
                    f"{name}: {', '.join(w for w in words if w not in kept)}, which the tokenizer cannot tell apart"
                )
            words = kept
        found[name] = words
    return found or ({"labels": labels} if labels else {})


def _answer(asked: Asked, study: Study, pipeline: Pipeline, answered: Path, notes: list[str]) -> Mapping[str, Any]:
    """Answer the questions plainly, by VDD and, where there are labels, post hoc; what all records depend on."""
    from vdd.cli.show import progress
    from vdd.config import Leg, SamplingConfig
    from vdd.job import Run
    from vdd.run_folder import unanswered
    from vdd.runner import run
    from vdd.scoring.score import questions_sha

    sampling = SamplingConfig(max_new_tokens=asked.max_new_tokens)
    legs = [Leg("greedy", None, sampling), Leg(f"vdd-{asked.reference}", pipeline.debias, sampling)]
    if study.labels:
        legs.append(Leg(f"posthoc-{asked.reference}", None, sampling, post_hoc=asked.reference))
    job = Run(
        asked.model,
        study.questions,
        asked.images,
        legs,
        labels=tuple(study.labels),
        prompt=asked.prompt,
        batch_size=asked.batch_size,
    )
    with progress("answers") as advance:
        run(pipeline, job, answered, progress=advance)
    missing = unanswered(answered)
    if missing:
        notes.append(f"{missing} of {len(study.questions)} questions: their images could not be read")
    sets = {name: list(words) for name, words in study.sets.items()}
    single = study.questions[0].question_id if study.single is None else study.single
    return {
        **job.describe(pipeline),
        "questions": questions_sha(study.questions),
        "sets": sets,
        "subset": asked.subset,
        "single": single,
    }
