"""Options that several commands have, and what comes of those that belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vdd.cli.models import MODEL_HELP

if TYPE_CHECKING:
    from vdd.config import DebiasConfig, Leg
    from vdd.job import Run
    from vdd.pipeline import Pipeline
    from vdd.protocol import Settings
    from vdd.records import Question
    from vdd.search import Stored
    from vdd.workers import Workers

Out = Annotated[Path, typer.Option(help="Folder for answers and scores; a killed run goes on in it.")]
Images = Annotated[Path, typer.Option(help="Folder of the images that the questions name.")]
Model = Annotated[str, typer.Option(help=MODEL_HELP)]
Prompt = Annotated[str, typer.Option(help="The question's wording; {question} stands for its text.")]
Dev = Annotated[Path | None, typer.Option(help="Question file that settings are chosen on, about images of its own.")]
DevImages = Annotated[Path | None, typer.Option(help="Folder of its images, where that is another.")]
DevShare = Annotated[
    float, typer.Option(help="Without it: share of the images that settings are chosen on; 0 to choose nothing.")
]
Alpha = Annotated[float | None, typer.Option(help="Contrast strength, ≥ 0; by default chosen on dev, else 1.")]
Beta = Annotated[float | None, typer.Option(help="Plausibility cut-off, 0 to 1; by default chosen on dev, else 0.1.")]
Methods = Annotated[list[str] | None, typer.Option(help="Further methods, again for each: vcd, icd, m3id, nolan.")]
CustomGenerate = Annotated[
    list[str] | None,
    typer.Option(
        help="Folder of a decoding method with custom_generate/generate.py, whose code is run; again for each. Behind "
        "commas what it is called with: dola,dola_layers=low."
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let --custom-generate name a method on the Hub, whose code is run.")
]
Config = Annotated[Path | None, typer.Option(help="vdd.json of `vdd advise`, as one more leg.")]
Repeats = Annotated[int, typer.Option(help="Draws of each sampling leg.")]
BatchSize = Annotated[
    int, typer.Option(help="Questions a forward at most; halved for as long as memory does not suffice.")
]
ShareImages = Annotated[bool, typer.Option(help="Read an image once for all its questions.")]
Strategy = Annotated[str, typer.Option(help="How the image-free side is run: skip, two-pass, fuse or speculate.")]
MaxNewTokens = Annotated[int, typer.Option(help="Length of an answer at most.")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many questions.")]
Seed = Annotated[int, typer.Option(help="Of sampling and of the dev images.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps, or auto to spread the model.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Quantize = Annotated[str | None, typer.Option(help="4bit or 8bit (extra `bnb`).")]


def check_images(images: Path) -> None:
    """Raise UserError where the folder of the images is missing."""
    from vdd._check import UserError

    if not images.is_dir():
        raise UserError(f"{images}: no such folder; wanted the folder of the images.")


def folder_for_answers(out: Path) -> Path:
    """Where a command that rests on a run of its own keeps it: OUT/answered.

    Raises:
        UserError: where `out` is another run's folder, or OUT/answered holds something else.
    """
    from vdd._check import UserError
    from vdd.run_folder import refuse_foreign

    if (out / "run.json").exists():
        raise UserError(f"{out}: holds a run of `vdd eval`; wanted a folder of its own.")
    refuse_foreign(out / "answered")
    return out / "answered"


def stored_answers(pipeline: Pipeline, job: Run, answered: Path) -> Stored:
    """Answer the questions, and read back what is stored of those that could be."""
    from vdd.cli.show import progress, say
    from vdd.run_folder import unanswered
    from vdd.runner import run
    from vdd.search import load_stored

    with progress("questions") as advance:
        run(pipeline, job, answered, progress=advance)
    missing = unanswered(answered)
    if missing:
        say(f"{missing} of {len(job.questions)} questions are left out: their images could not be read")
    return load_stored(answered)


@dataclass(kw_only=True)
class Asking:
    """A model and how it is asked, as the commands under `vdd eval` share it.

    Attributes:
        model, device, dtype, quantize: what is opened, and how.
        out: the run's folder.
        images: of the questions.
        alpha, beta: None where they are to be chosen.
        methods: names of presets.
        custom_generate: folders, or names on the Hub where `trust_remote_code` allows these.
        config: a file that `vdd advise` wrote.
        repeats: draws of each sampling leg.
        prompt, batch_size, share_images, strategy, max_new_tokens, seed: of the run.
        labels: of the answers; none where they are free.
    """

    model: str
    out: Path
    images: Path
    alpha: float | None
    beta: float | None
    methods: Sequence[str]
    custom_generate: Sequence[str]
    trust_remote_code: bool
    config: Path | None
    repeats: int
    prompt: str
    batch_size: int
    share_images: bool
    strategy: str
    max_new_tokens: int
    seed: int
    device: str | None
    dtype: str
    quantize: str | None
    labels: tuple[str, ...] = ("yes", "no")

    def check(self) -> None:
        """Raise UserError on what can be known to be wrong before a model is opened."""
        from vdd._check import UserError, choice, whole
        from vdd.config import STRATEGIES, SamplingConfig
        from vdd.run_folder import refuse_foreign

        self.debias()
        SamplingConfig(max_new_tokens=self.max_new_tokens)
        if any(leg.labels_alone for leg in self.more_legs()) and not self.labels:
            raise UserError(f"{self.config}: this decoding answers with labels, and free answers have none.")
        choice("eval", "strategy", self.strategy, [name for name in STRATEGIES if name != "auto"])
        whole("eval", "repeats", self.repeats, low=1)
        self.presets()
        self.custom()
        self.more_legs()
        refuse_foreign(self.out)

    def debias(self) -> DebiasConfig:
        """The settings that are given, the paper's where they are not."""
        from vdd.config import DebiasConfig

        return DebiasConfig(
            alpha=1.0 if self.alpha is None else self.alpha, beta=0.1 if self.beta is None else self.beta
        )

    def presets(self) -> dict[str, DebiasConfig]:
        """The further methods."""
        from vdd._check import choice
        from vdd.processor import PRESETS

        known = [name for name in PRESETS if name not in ("vdd", "cutoff-only")]
        return {choice("eval", "method", name, known): PRESETS[name] for name in self.methods}

    def custom(self) -> list[str]:
        """The further methods' folders in full, and names on the Hub where these are allowed."""
        from vdd._check import UserError

        found = []
        for one in self.custom_generate:
            name, comma, settings = one.partition(",")
            if Path(name).is_dir():
                name = str(Path(name).resolve())
            elif not self.trust_remote_code:
                raise UserError(
                    f"{name}: no such folder; wanted one with custom_generate/generate.py in it, or a method's name on "
                    "the Hub with --trust-remote-code, since its code is run."
                )
            found.append(name + comma + settings)
        return found

    def more_legs(self) -> list[Leg]:
        """The leg of the file that `vdd advise` wrote, where there is one."""
        from dataclasses import replace

        from vdd.config import SamplingConfig, load_leg

        if self.config is None:
            return []
        leg = load_leg(self.config)
        sampling: SamplingConfig = replace(leg.sampling, max_new_tokens=self.max_new_tokens)
        return [replace(leg, name="config", sampling=sampling)]

    def dev_questions(self, dev: Path | None, dev_images: Path | None) -> list[Question]:
        """The questions of a dev file, where there is one.

        Raises:
            UserError: where the file or its images are wrong, or images came without a file.
        """
        from vdd._check import UserError
        from vdd.data import load_questions

        if dev_images is not None and dev is None:
            raise UserError("eval: --dev-images came without --dev; wanted the dev questions' file beside it.")
        if dev_images is not None and not dev_images.is_dir():
            raise UserError(f"{dev_images}: no such folder; wanted the folder of the dev questions' images.")
        return [] if dev is None else load_questions(dev, labels=("yes", "no"))

    def answer(
        self, asked: Sequence[Question], known: Sequence[Question], dev_images: Path | None = None
    ) -> tuple[Settings, Workers]:
        """Open the model, choose settings on `known` where there are such, answer `asked` in every leg.

        Returns:
            the settings, and the processes that share the work; where there are several, the first one reports.
        """
        from dataclasses import replace

        from vdd.cli.models import open_pipeline
        from vdd.cli.show import progress, say
        from vdd.config import Leg
        from vdd.job import Run
        from vdd.protocol import ALPHAS, BETAS, Settings, chosen_on_dev, protocol_legs, write_settings
        from vdd.run_folder import CHOSEN, unanswered
        from vdd.runner import run
        from vdd.workers import Workers

        workers = Workers.launched()
        pipeline: Pipeline = open_pipeline(
            self.model,
            debias=self.debias(),
            device=workers.device(self.device),
            dtype=self.dtype,
            quantize=self.quantize,
        )
        job = Run(
            self.model,
            asked,
            self.images,
            [Leg("greedy")],
            labels=self.labels,
            prompt=self.prompt,
            batch_size=self.batch_size,
            seed=self.seed,
            share_images=self.share_images,
            strategy=self.strategy,
        )
        settings = Settings.given(pipeline.priors, alpha=self.debias().alpha, beta=self.debias().beta)
        with progress("questions", shown=workers.is_first) as advance:
            if known:
                settings = chosen_on_dev(
                    pipeline,
                    job,
                    known,
                    self.out,
                    otherwise=settings,
                    dev_images=dev_images,
                    alphas=ALPHAS if self.alpha is None else (self.alpha,),
                    betas=BETAS if self.beta is None else (self.beta,),
                    progress=lambda done, total: advance(done, total, "dev questions"),
                    workers=workers,
                )
            legs = protocol_legs(
                settings,
                prompt=self.prompt,
                max_new_tokens=self.max_new_tokens,
                repeats=self.repeats,
                presets=self.presets(),
                custom_generate=self.custom(),
                labelled=bool(self.labels),
            )
            whole_job = replace(job, legs=[*legs, *self.more_legs()])
            unshared = run(pipeline, whole_job, self.out, progress=advance, workers=workers)
        if not workers.is_first:
            return settings, workers
        if settings.dev:
            write_settings(self.out, settings)
            some = f" ({len(known) - settings.dev} more have no readable image)" if settings.dev < len(known) else ""
            say(f"settings were chosen on {settings.dev} questions about other images{some}: {self.out / CHOSEN}")
        if unshared:
            say(f"each question read its image anew: {unshared}")
        missing = unanswered(self.out)
        if missing:
            say(f"{missing} of {len(asked)} questions have no answer: their images could not be read")
        return settings, workers
