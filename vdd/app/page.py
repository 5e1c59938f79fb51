"""The page: an image and a question, three answers beside each other, bars, settings, examples, a model by name.

What visitors send is not trusted: numbers are checked where they are used, pictures are decoded anew, and what goes
wrong is said in words. Only `server` imports this file, since it needs Gradio (extra `app`).

Knows: Gradio. Does not know: how answers are made, addresses.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import gradio as gr
from PIL import Image

from vdd.app.answers import LONGEST_ANSWER, LONGEST_QUESTION, Asked, Shown, answers, check
from vdd.app.cards import BEFORE, cards, message
from vdd.app.compared import labels_from
from vdd.app.examples import ENLARGED, EXAMPLES, Example
from vdd.app.house import House, references_of
from vdd.app.received import LARGEST_UPLOAD, in_words, opened, text
from vdd.config import DebiasConfig

MOST_ALPHA = 5.0
"""End of the slider; the command line goes further."""

ANSWERING = 8
"""Questions whose pictures are in memory at once; the model takes one after another, further ones wait outside."""

LOOKING = 2
"""Uploaded pictures that are looked at at once."""

LEAD = (
    "Ask about an image. Beside the model's own answer stand one that strengthens what the image adds (VDD), and one "
    "that divides the language model's habit out of a choice (post-hoc). Words on blue come from the image, words on "
    "orange from habit."
)

_LIVE: dict[str, Any] = {
    "show_progress": "hidden",
    "trigger_mode": "multiple",
    "concurrency_limit": ANSWERING,
    "concurrency_id": "answers",
    "api_visibility": "private",
    "preprocess": False,  # Gradio's own would open the picture with all that Pillow knows
}
_QUICK: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}


def page(house: House) -> gr.Blocks:
    """The page, not yet on any address."""
    visit = _Visit(house)
    blocks = gr.Blocks(title="vdd: what comes from the image", analytics_enabled=False, delete_cache=(3600, 86400))
    with blocks:
        _html(f"<h1>Does the answer come from the image?</h1><p>{LEAD}</p>", "head")
        gallery = _gallery()
        model = gr.State(house.first)
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                picture, question, labels = _question_fields()
                with gr.Row():
                    button = gr.Button("Ask", variant="primary", elem_id="ask", min_width=120)
                    stop = gr.Button("Stop", elem_id="stop", min_width=80)
            with gr.Column(scale=9, min_width=320):
                settings = _settings(references_of(house.model(house.first)))
                note = _html("", "note")
                result = _html(cards(None), "result")
        inputs = [picture, question, labels, *settings, model]
        outputs = [note, result]
        alpha, beta, reference, length = settings
        gr.on([button.click, question.submit, labels.submit], visit.ask, inputs, outputs, **_LIVE)
        changed = [alpha.release, beta.release, length.release, reference.input]
        gr.on(changed, visit.ask_again, inputs, outputs, **_LIVE)
        stop.click(visit.end, **_QUICK)
        picture.upload(look, picture, note, preprocess=False, **{**_QUICK, "concurrency_limit": LOOKING})
        chosen = gallery.select(choose, None, [picture, question, labels], **_QUICK)
        chosen.then(visit.ask, inputs, outputs, **_LIVE)
        blocks.unload(visit.end)
        if house.guests:
            _model_box(visit, model, reference)
    return blocks


class _Visit:
    """What a visitor can do; no visitor's data is kept here."""

    def __init__(self, house: House) -> None:
        self.house = house

    def ask(
        self,
        picture: Any,
        question: Any,
        labels: Any,
        alpha: Any,
        beta: Any,
        reference: Any,
        length: Any,
        model: str,
        request: gr.Request,
    ) -> Iterator[Any]:
        """The note and the answers, again and again until the answers are whole."""
        visitor = request.session_hash or secrets.token_hex(8)
        ended = self.house.ask(visitor)
        last: Shown | None = None
        try:
            asked = Asked(
                opened(picture),
                text("question", question),
                labels_from(text("possible answers", labels)),
                DebiasConfig(alpha=alpha, beta=beta, reference=reference),
                length,
            )
            pipeline = self.house.model(model)
            check(pipeline, asked)
            for last in answers(pipeline, asked, ended, self.house.turn):
                yield message(""), cards(last)
        except Exception as error:
            yield message(in_words(error)), cards(last, stopped=True)
        else:
            if last is not None and not last.whole and not self.house.newer(visitor, ended):
                yield message(""), cards(last, stopped=True)

    def ask_again(
        self,
        picture: Any,
        question: Any,
        labels: Any,
        alpha: Any,
        beta: Any,
        reference: Any,
        length: Any,
        model: str,
        request: gr.Request,
    ) -> Iterator[Any]:
        """As `ask`, after a setting changed; nothing where there is no question yet."""
        if picture and question:
            yield from self.ask(picture, question, labels, alpha, beta, reference, length, model, request)

    def end(self, request: gr.Request) -> None:
        """The visitor has seen enough, or left."""
        if request.session_hash:
            self.house.end(request.session_hash)

    def open(self, name: str, current: str) -> Iterator[Any]:
        """Open a model: what is going on, its name, the references that it takes, the box's title."""
        name = text("model", name).strip() or self.house.first
        said = f"{name}: is being opened; a model that is not here yet is fetched first."
        yield message(said, wrong=False), current, gr.skip(), gr.skip()
        try:
            pipeline = self.house.open(name)
        except Exception as error:
            yield message(in_words(error)), current, gr.skip(), gr.skip()
            return
        said = f"{name}: is open ({pipeline.family.kind}, on {pipeline.device})."
        choices = references_of(pipeline)
        menu = gr.Dropdown(_named(choices), value=choices[0])
        yield message(said, wrong=False), name, menu, gr.Accordion(label=_model_title(name))


def choose(event: gr.SelectData) -> tuple[Image.Image, str, str]:
    """An example's picture, question and possible answers."""
    number = event.index if isinstance(event.index, int) and 0 <= event.index < len(EXAMPLES) else 0
    example = EXAMPLES[number]
    return example.image, example.question, ", ".join(example.labels)


def look(picture: object) -> str:
    """What is wrong with a picture that was just uploaded; "" where nothing is."""
    try:
        opened(picture)
    except Exception as error:
        return message(in_words(error))
    return message("")


def _question_fields() -> tuple[gr.Image, gr.Textbox, gr.Textbox]:
    picture = gr.Image(
        label=f"Image, at most {LARGEST_UPLOAD // 2**20} MB",
        type="filepath",
        format="png",
        sources=["upload", "clipboard"],
        height=300,
        buttons=[],
        elem_id="picture",
    )
    question = gr.Textbox(
        label="Question",
        placeholder="What color is the fox?",
        lines=1,
        max_lines=4,
        max_length=LONGEST_QUESTION,
        elem_id="question",
    )
    labels = gr.Textbox(
        label="Possible answers, between commas (optional)",
        placeholder="red, brown, blue",
        max_lines=1,
        max_length=LONGEST_QUESTION,
        elem_id="labels",
    )
    return picture, question, labels


def _settings(references: list[str]) -> tuple[gr.Slider, gr.Slider, gr.Dropdown, gr.Slider]:
    with gr.Row(elem_id="settings", equal_height=True):
        alpha = gr.Slider(0, MOST_ALPHA, 1.0, step=0.1, label="α, strength", elem_id="alpha", min_width=170)
        beta = gr.Slider(0, 1, 0.1, step=0.01, label="β, cut-off", elem_id="beta", min_width=170)
        reference = gr.Dropdown(
            _named(references), value=references[0], label="Instead of the image", elem_id="reference", min_width=170
        )
        length = gr.Slider(1, LONGEST_ANSWER, 48, step=1, label="Most tokens", elem_id="length", min_width=170)
    return alpha, beta, reference, length


def _named(references: list[str]) -> list[tuple[str, str]]:
    """References as a menu shows them."""
    return [(f"{name}: {BEFORE[name]}", name) for name in references]


def _gallery() -> gr.Gallery:
    return gr.Gallery(
        [(_enlarged(one), one.caption) for one in EXAMPLES],
        label="Examples from the embedded model's world",
        columns=len(EXAMPLES),
        height="auto",
        allow_preview=False,
        format="png",
        buttons=[],
        elem_id="examples",
    )


def _html(value: str, name: str) -> gr.HTML:
    return gr.HTML(value, elem_id=name, apply_default_css=False, container=False, padding=False)


def _model_box(visit: _Visit, model: gr.State, reference: gr.Dropdown) -> None:
    with gr.Accordion(_model_title(visit.house.first), open=False, elem_id="models") as box:
        with gr.Row(equal_height=True):
            name = gr.Textbox(
                label="Name on the Hub, or a folder of this machine",
                placeholder="llava-hf/llava-1.5-7b-hf",
                info=f"Nothing is fetched before you press. The page began with {visit.house.first}.",
                max_lines=1,
                scale=5,
                elem_id="model",
            )
            load = gr.Button("Load", elem_id="load", scale=1, min_width=100)
        state = _html("", "model-note")
        gr.on(
            [load.click, name.submit],
            visit.open,
            [name, model],
            [state, model, reference, box],
            concurrency_limit=1,
            show_progress="hidden",
            api_visibility="private",
        )


def _model_title(name: str) -> str:
    return f"Model: {name} (load another)"


def _enlarged(example: Example) -> Image.Image:
    image = example.image
    return image.resize([ENLARGED * side for side in image.size], Image.Resampling.LANCZOS)
