"""The page without a browser: what is compared and written, who may ask what, what the server refuses to give out."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from tests.app_server import running
from tests.test_pipeline_families import built
from tests.zoo import MEMBERS, picture
from vdd._check import UserError
from vdd.app.answers import LONGEST_QUESTION, Asked, Shown, Written, answers, check
from vdd.app.cards import cards, message
from vdd.app.compared import Compared, asks_yes_or_no, compare, labels_from
from vdd.app.examples import EXAMPLES
from vdd.app.gate import LARGEST, Gate, paths_in
from vdd.app.house import House, Stopped, references_of
from vdd.app.received import LARGEST_UPLOAD, in_words, opened
from vdd.app.server import serve
from vdd.config import DebiasConfig, SamplingConfig
from vdd.pipeline import Pipeline
from vdd.toy.scenes import caption, scene_at

FOX = EXAMPLES[0]


@pytest.fixture(scope="module")
def pipeline(toy):
    return Pipeline(*toy)


@pytest.fixture
def house(pipeline):
    return House(lambda name: pipeline, "toy")


def last(pipeline, asked: Asked, house: House) -> Shown:
    """What is shown in the end."""
    (*_, shown) = answers(pipeline, asked, house.ask("me"), house.turn)
    return shown


# -------------------------------------------------------------------------------------------------------- the answers


@pytest.mark.parametrize("example", [EXAMPLES[0], EXAMPLES[2]], ids=lambda example: example.question)
def test_what_is_shown_is_what_the_pipeline_answers(pipeline, house, example):
    sampling = SamplingConfig(max_new_tokens=48)
    labels = example.labels or ("yes", "no")
    shown = last(pipeline, Asked(example.image, example.question, example.labels), house)
    plain = pipeline(example.image, example.question, debias=False, sampling=sampling)
    debiased = pipeline(example.image, example.question, labels=labels, sampling=sampling)
    assert (shown.plain.text, shown.debiased.text) == (plain.text, debiased.text)
    count = len(shown.debiased.tokens)
    assert shown.debiased.tokens == tuple(debiased.tokens[:count])
    assert "".join(shown.debiased.tokens) == shown.debiased.text
    assert shown.debiased.reliance == pytest.approx(debiased.reliance[:count], abs=1e-4)
    if example.labels or asks_yes_or_no(example.question):
        wanted = debiased.debiased["none"]
        assert dict(zip(shown.compared.names, shown.compared.debiased, strict=True)) == pytest.approx(wanted, abs=1e-6)
        assert shown.compared.answer == max(wanted, key=wanted.get)


def test_the_plain_answers_words_are_measured_against_the_same_reference(pipeline, house):
    """“brown” is the habit's word for a fox, and less likely with this red one; “red” is the image's."""
    shown = last(pipeline, Asked(FOX.image, FOX.question), house)
    assert (shown.plain.text, shown.debiased.text) == ("brown", "red")
    inputs = pipeline.inputs([FOX.image], [FOX.question])
    rows = pipeline.distributions(inputs, ("image", "none"))
    for written in (shown.plain, shown.debiased):
        (token,) = pipeline.tokens(written.text)
        wanted = float(rows["image"][0, token] - rows["none"][0, token])
        assert written.reliance == pytest.approx((wanted,), abs=1e-4)
    assert shown.plain.reliance[0] < 0 < shown.debiased.reliance[0]


def test_an_answer_grows_from_its_beginning_plain_first_and_is_whole_in_the_end(pipeline, house):
    example = EXAMPLES[1]
    told = list(answers(pipeline, Asked(example.image, example.question), house.ask("me"), house.turn))
    assert told[0].plain is None
    assert told[-1].whole
    for name in ("plain", "debiased"):
        texts = [getattr(shown, name).text for shown in told if getattr(shown, name)]
        assert all(later.startswith(sooner) for sooner, later in pairwise(texts))
    begun = next(number for number, shown in enumerate(told) if shown.debiased is not None)
    assert told[begun].plain.done


@pytest.mark.slow
@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_every_family_is_answered_as_its_pipeline_does(member, house):
    pipeline = built(member)
    question, sampling = "what color is the dog ?", SamplingConfig(max_new_tokens=4)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array_wrap__", DeprecationWarning)
        shown = last(pipeline, Asked(picture(0), question, length=4), house)
        plain = pipeline(picture(0), question, debias=False, sampling=sampling)
        debiased = Pipeline(pipeline.model, pipeline.processor)(picture(0), question, sampling=sampling)
    assert (shown.plain.text, shown.debiased.text) == (plain.text, debiased.text)
    count = len(shown.debiased.tokens)
    assert shown.debiased.reliance == pytest.approx(debiased.reliance[:count], abs=1e-3)
    assert isinstance(shown.compared, Compared)


def test_a_comparison_that_fails_leaves_the_other_answers_alone(pipeline, house, monkeypatch):
    def fail(*given, **more):
        raise ZeroDivisionError("no habit")

    monkeypatch.setattr("vdd.app.answers.compare", fail)
    shown = last(pipeline, Asked(FOX.image, FOX.question), house)
    assert "ZeroDivisionError: no habit" in shown.compared
    assert shown.debiased.text == "red"


def test_a_larger_alpha_gives_another_answer(pipeline, house):
    example = EXAMPLES[4]
    said = [
        last(pipeline, Asked(example.image, example.question, debias=DebiasConfig(alpha=alpha)), house)
        for alpha in (0.0, 1.0, 3.0)
    ]
    assert [shown.debiased.text for shown in said] == ["yes", "yes", example.truth]
    assert [shown.plain.text for shown in said] == ["yes"] * 3


@pytest.mark.slow
def test_the_examples_are_what_is_said_of_them(pipeline, house):
    """Wrong without debiasing, right with it, but for one that wants more, one that breaks, one of habit."""
    said = [last(pipeline, Asked(one.image, one.question, one.labels), house) for one in EXAMPLES]
    pairs = [
        (shown.plain.text == one.truth, shown.debiased.text == one.truth)
        for one, shown in zip(EXAMPLES, said, strict=True)
        if one.question != "Describe the image."
    ]
    mended, broken, right = (False, True), (True, False), (True, True)
    assert pairs == [mended, mended, mended, (False, False), broken, mended, right]
    truth = caption(scene_at(EXAMPLES[1].split, EXAMPLES[1].index))
    assert (said[1].plain.text == truth, said[1].debiased.text == truth) == mended


def test_every_reference_of_the_family_can_be_chosen_and_no_other(pipeline, house):
    assert references_of(pipeline) == ["none", "unk", "both", "noise", "zero", "one", "mask", "instruction"]
    for reference in references_of(pipeline):
        asked = Asked(FOX.image, FOX.question, debias=DebiasConfig(reference=reference), length=1)
        check(pipeline, asked)
        shown = last(pipeline, asked, house)
        assert shown.whole
        assert isinstance(shown.compared, Compared)
    refusing = Pipeline(pipeline.model, pipeline.processor)
    refusing.__dict__["priors"] = ("none",)
    assert references_of(refusing) == ["none", "noise", "zero", "one", "mask", "instruction"]
    with pytest.raises(UserError, match="unknown reference 'unk'; known: none, noise"):
        check(refusing, Asked(FOX.image, FOX.question, debias=DebiasConfig(reference="unk")))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"question": " \n"}, "question is empty"),
        ({"question": "What is <image> there?"}, "holds '<image>'"),
        ({"question": "x" * (LONGEST_QUESTION + 1)}, "letters; wanted at most"),
        ({"length": 10_000}, "from 1 to 256"),
        ({"length": 2.5}, "from 1 to 256"),
    ],
)
def test_what_cannot_be_asked_is_said(pipeline, changes, said):
    with pytest.raises(UserError, match=said):
        check(pipeline, Asked(**{"image": FOX.image, "question": FOX.question, **changes}))


def test_an_ended_answer_stops_within_a_token_and_frees_the_model(pipeline, house):
    example = EXAMPLES[1]
    ended = house.ask("me")
    seen = []
    for shown in answers(pipeline, Asked(example.image, example.question, length=200), ended, house.turn):
        seen.append(shown)
        if shown.plain is not None:
            house.end("me")
    assert ended.is_set()
    assert not seen[-1].whole
    assert last(pipeline, Asked(FOX.image, FOX.question), house).whole


def test_a_reader_that_leaves_ends_the_answer(pipeline, house):
    ended = house.ask("me")
    reading = answers(pipeline, Asked(EXAMPLES[1].image, EXAMPLES[1].question), ended, house.turn)
    next(reading)
    reading.close()
    assert ended.is_set()


def test_what_goes_wrong_in_the_thread_is_raised_to_the_reader(house, pipeline):
    class Broken:
        def inputs(self, images, questions):
            raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        list(answers(Broken(), Asked(FOX.image, FOX.question), house.ask("me"), house.turn))
    assert last(pipeline, Asked(FOX.image, FOX.question), house).whole


# ------------------------------------------------------------------------------------------------- what is compared


def test_first_words_are_divided_by_their_habit(pipeline):
    inputs = pipeline.inputs([FOX.image], [FOX.question])
    prefill = pipeline.prefill(inputs)
    found = compare(pipeline, inputs, prefill, FOX.question, (), reference="both", beta=0.2)
    rows = pipeline.distributions(inputs, ("image", "none", "unk"), prefill=prefill)
    p = rows["image"][0].exp().tolist()
    q = ((rows["none"][0] + rows["unk"][0]) / 2).softmax(-1).tolist()
    ids = {name: pipeline.tokens(name)[0] for name in found.names}
    kept = [name for name in found.names if p[ids[name]] >= 0.2 * max(p)]
    assert len(kept) == found.alternatives >= 2
    whole = sum(q[ids[name]] for name in kept), sum(p[ids[name]] for name in kept)
    scores = {name: p[ids[name]] / whole[1] / (q[ids[name]] / whole[0] + 1e-4) for name in kept}
    for name, seen, blind, debiased in zip(found.names, found.seen, found.blind, found.debiased, strict=True):
        assert (seen, blind) == pytest.approx((p[ids[name]], q[ids[name]]), abs=1e-6)
        assert debiased == (pytest.approx(scores[name] / sum(scores.values()), rel=1e-3) if name in kept else None)
    assert found.answer == "red"


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        ("Is there a fox in the image?", True),
        ("do you see it?", True),
        ("Can it fly? Please answer yes or no.", True),
        ("A fox? Answer yes or no", True),
        ("What is this?", False),
        ("Is it red or blue?", False),
        ("Is there", False),
        ("Island or sea?", False),
        ("", False),
    ],
)
def test_questions_for_yes_or_no_are_known(question, wanted):
    assert asks_yes_or_no(question) is wanted


def test_labels_come_between_commas_each_once():
    assert labels_from(" red, blue ,red,, ") == ("red", "blue")
    assert labels_from(" , ") == ()
    for wrong in ("red", ",".join(map(str, range(25))), "a," + "b" * 61):
        with pytest.raises(UserError, match="wanted"):
            labels_from(wrong)


def test_labels_that_cannot_be_told_apart_leave_the_other_answers_alone(pipeline, house):
    shown = last(pipeline, Asked(FOX.image, FOX.question, ("qwrt", "zxcv")), house)
    assert "wanted labels that can be told apart" in shown.compared
    assert shown.debiased.text == "red"
    assert "wanted labels that can be told apart" in cards(shown)


# ------------------------------------------------------------------------------------------------- what visitors send


def test_a_picture_is_opened_as_a_model_should_see_it_and_named_as_its_sender_does(tmp_path):
    (tmp_path / "fox").write_bytes(png(FOX.image.convert("RGBA")))
    assert opened({"path": str(tmp_path / "fox"), "orig_name": "a.png"}).tobytes() == FOX.image.tobytes()
    (tmp_path / "broken").write_bytes(b"GIF89a")
    with pytest.raises(UserError, match=r"^holiday.gif: (not an image|cannot be decoded)"):
        opened({"path": str(tmp_path / "broken"), "orig_name": "holiday.gif"})
    with pytest.raises(UserError, match="is not here any more"):
        opened({"path": str(tmp_path / "gone"), "orig_name": "a.png"})
    (tmp_path / "large").write_bytes(bytes(LARGEST_UPLOAD + 1))
    with pytest.raises(UserError, match="more than 20 MB"):
        opened({"path": str(tmp_path / "large")})
    for nothing in (None, "path", {}, {"path": None}, {"path": 3}, [str(tmp_path / "fox")]):
        with pytest.raises(UserError, match="There is no image yet"):
            opened(nothing)


def test_a_failure_inside_is_said_in_one_line_and_logged_whole(caplog):
    assert in_words(UserError("wanted more")) == "wanted more"
    assert not caplog.records
    assert in_words(MemoryError()) == "This failed inside (MemoryError: no more is known). The server's log says more."
    assert in_words(RuntimeError("first\nsecond")).startswith("This failed inside (RuntimeError: first).")
    assert [record.exc_info[0] for record in caplog.records] == [MemoryError, RuntimeError]


# --------------------------------------------------------------------------------------------------------- the house


def test_a_model_is_opened_once_and_the_third_takes_the_place_of_the_second():
    opened = []
    house = House(lambda name: opened.append(name) or name.upper(), "first")
    assert [house.open(name) for name in ("first", "second", " second ")] == ["FIRST", "SECOND", "SECOND"]
    assert house.model("second") == "SECOND"
    house.open("third")
    assert opened == ["first", "second", "third"]
    assert house.model("first") == "FIRST"
    with pytest.raises(UserError, match="second: this model is not open any more"):
        house.model("second")
    with pytest.raises(UserError, match="No model's name came"):
        house.open(" ")


def test_guests_open_no_models():
    house = House(lambda name: name, "first", guests=False)
    assert house.open("first") == "first"
    with pytest.raises(UserError, match="models are not opened from here"):
        house.open("/etc")


def test_a_visitors_newer_question_ends_the_older_one_and_nobody_elses():
    house = House(lambda name: name, "first")
    mine, theirs = house.ask("me"), house.ask("you")
    newer = house.ask("me")
    assert (mine.is_set(), theirs.is_set(), newer.is_set()) == (True, False, False)
    assert house.newer("me", mine)
    assert not house.newer("me", newer)
    house.end("me")
    assert newer.is_set()
    assert not house.newer("me", newer)


def test_one_answer_at_a_time_and_who_gave_up_waits_no_longer():
    house = House(lambda name: name, "first")
    inside, most = [], []

    def answer(number: int) -> None:
        with house.turn(house.ask(str(number))):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.01)
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(answer, range(8)))
    assert most == [1] * 8
    with house.turn(house.ask("me")):
        waiting = house.ask("you")
        threading.Timer(0.05, waiting.set).start()
        with pytest.raises(Stopped), house.turn(waiting):
            pass


# --------------------------------------------------------------------------------------------------------- the cards


def test_what_visitors_and_models_say_is_text_not_markup():
    asked = Asked(FOX.image, "<script>alert(1)</script>")
    compared = Compared("given", ("<b>", "a&b"), (0.2, 0.8), (0.5, 0.5), (0.2, 0.8), "none", (0.9, 0.9))
    said = Written("<img src=x>", True, ("<img src=x>",), (0.5,), 1.0)
    html = cards(Shown(asked, compared, said, Written("<i>half")))
    assert not any(tag in html for tag in ("<script", "<img", "<i>half", "<b>,"))
    assert "&lt;img src=x&gt;" in html
    assert "a&amp;b" in html
    assert message("<b>") == '<p class="vdd-note wrong" role="alert">&lt;b&gt;</p>'
    assert message("") == ""


def test_a_stopped_answer_says_so_and_waits_for_nothing():
    half = Shown(Asked(FOX.image, "?"), None, Written("there is"), None)
    assert "(stopped)" in cards(half, stopped=True)
    assert "caret" not in cards(half, stopped=True)
    assert "caret" in cards(half)
    assert "waiting" not in cards(half, stopped=True)


# ---------------------------------------------------------------------------------------------------------- the gate


def through(gate: Gate, method: str, path: str, *, host: str = "localhost:7860", query: str = "", body: bytes = b""):
    """(status, headers, body) of one request."""
    sent = []
    messages = [
        {"type": "http.request", "body": body[:9], "more_body": True},
        {"type": "http.request", "body": body[9:]},
    ]

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(b"host", host.encode())],
    }
    asyncio.run(gate(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


async def echo(scope, receive, send):
    message = await receive() if scope["method"] == "POST" else {"body": b"page"}
    await send({"type": "http.response.start", "status": 200, "headers": [(b"Content-Security-Policy", b"none")]})
    await send({"type": "http.response.body", "body": message["body"]})


@pytest.fixture
def gate(tmp_path):
    (tmp_path / "uploads" / "a").mkdir(parents=True)
    (tmp_path / "uploads" / "a" / "fox.png").write_bytes(b"fox")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "uploads" / "link").symlink_to(tmp_path / "secret")
    return Gate(echo, uploads=str(tmp_path / "uploads"), hosts=["localhost", "127.0.0.1", "::1"])


def test_uploaded_files_are_given_out_and_nothing_else_of_the_machine(gate, tmp_path):
    file = "/gradio_api/file="
    uploads = tmp_path / "uploads"
    assert through(gate, "GET", f"{file}{uploads}/a/fox.png")[0] == 200
    for path in (
        "/etc/passwd",
        f"{uploads}/../secret",
        f"{uploads}/link",
        f"{uploads}",
        f"{tmp_path}/uploads-other/x",
        "secret",
        "",
        "http://example.com/a.png",
        "a\0b",
    ):
        assert through(gate, "GET", file + path)[0] == 403, path


def test_only_what_the_page_needs_is_there(gate):
    for path in ("/", "/config", "/theme.css", "/assets/a.js", "/static/img/a.svg", "/gradio_api/queue/data"):
        status, headers, body = through(gate, "GET", path)
        assert (status, body) == (200, b"page")
        assert b"default-src 'self'" in headers[b"content-security-policy"]
        assert b"Content-Security-Policy" not in headers
    for path in (
        "/monitoring",
        "/gradio_api/proxy=http://example.com",
        "/gradio_api/runs",
        "/gradio_api/vibe-code",
        "/gradio_api/file/etc/passwd",
        "/assets/../../etc/passwd",
        "/docs",
        "/login",
    ):
        assert through(gate, "GET", path)[0] == 404, path
    for path in (
        "/gradio_api/run/predict",
        "/gradio_api/call/ask",
        "/gradio_api/component_server",
        "/gradio_api/vibe-edit",
    ):
        assert through(gate, "POST", path, body=b"{}")[0] == 404, path
    assert through(gate, "GET", "/", query="deep_link=x")[0] == 404
    assert through(gate, "DELETE", "/")[0] == 404


def test_a_call_with_a_path_of_the_machine_is_refused_and_others_arrive_whole(gate, tmp_path):
    join = "/gradio_api/queue/join"
    good = json.dumps({"data": [{"path": f"{tmp_path}/uploads/a/fox.png"}, "a question", {"path": None}]}).encode()
    assert through(gate, "POST", join, body=good)[::2] == (200, good)
    for path in ("/etc/passwd", "http://example.com/a.png", f"{tmp_path}/uploads/../secret", 7, ["/etc/passwd"]):
        body = json.dumps({"data": [[{"deep": {"path": path}}]]}).encode()
        assert through(gate, "POST", join, body=body)[0] == 403, path
    assert through(gate, "POST", join, body=b"{" * 20)[0] == 400
    assert through(gate, "POST", join, body=b"[" * 100_000)[0] == 400
    assert through(gate, "POST", join, body=b" " * (LARGEST + 1))[0] == 413
    assert list(paths_in({"path": {"path": "x"}})) == [{"path": "x"}, "x"]


def test_another_pages_name_pointed_at_this_server_is_refused(gate):
    assert through(gate, "GET", "/", host="evil.example:7860")[0] == 421
    assert through(gate, "GET", "/", host="")[0] == 421
    assert through(gate, "GET", "/", host="[::1]:7860")[0] == 200
    everybody = Gate(echo, uploads="/nowhere", hosts=None)
    assert through(everybody, "GET", "/", host="evil.example")[0] == 200


# ---------------------------------------------------------------------------------------------- the server, by its door


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    if find_spec("gradio") is None:
        pytest.skip("the page needs Gradio: pip install 'visual-debias-decoding[app]'")
    with running(tmp_path_factory.mktemp("served")) as server:
        yield server


def upload(served, content: bytes, name: str = "fox.png") -> tuple[int, bytes]:
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + b"\r\n--x--\r\n"
    return served.asked("POST", "/gradio_api/upload", body, Content_Type="multipart/form-data; boundary=x")


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def ask(served, path: str | None, question: str, *, alpha: object = 1.0, name: str = "fox.png") -> tuple[str, str]:
    """(note, answers) as HTML in the end, for a visitor of its own."""
    config = json.loads(served.asked("GET", "/config")[1])
    (button,) = (part["id"] for part in config["components"] if part["props"].get("elem_id") == "ask")
    (number,) = (one["id"] for one in config["dependencies"] if [button, "click"] in one["targets"])
    picture = path and {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
    session = uuid.uuid4().hex
    data = [picture, question, "", alpha, 0.1, "none", 48, None]
    call = {"data": data, "fn_index": number, "session_hash": session, "trigger_id": button}
    status, said = served.asked(
        "POST", "/gradio_api/queue/join", json.dumps(call).encode(), Content_Type="application/json"
    )
    if status != 200:
        return str(status), said.decode()
    note, shown = "", ""
    events = served.asked("GET", f"/gradio_api/queue/data?session_hash={session}")[1].decode()
    for line in events.split("\n"):
        if not line.startswith("data: "):
            continue
        event = json.loads(line.removeprefix("data: "))
        output = event.get("output") or {}
        if event["msg"] == "process_completed":
            assert event["success"], event
        if event["msg"] == "process_generating" and len(output.get("data", [])) == 2:
            note, shown = (changed(old, new) for old, new in zip((note, shown), output["data"], strict=True))
    return note, shown


def changed(old: str, new: object) -> str:
    """A streamed value: whole, or the differences to the one before."""
    if not isinstance(new, list):
        return str(new)
    for action, _, value in new:
        old = old + value if action == "append" else value
    return old


def test_an_uploaded_image_is_answered_over_the_door_and_two_visitors_get_their_own(served):
    paths = [json.loads(upload(served, png(EXAMPLES[number].image))[1])[0] for number in (0, 3)]
    questions = [EXAMPLES[number].question for number in (0, 3)]
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda pair: ask(served, *pair), zip(paths, questions, strict=True)))
    for (note, shown), right, wrong in zip(both, ("red", "purple"), ("brown", "black"), strict=True):
        assert note == ""
        texts = [" ".join(card.split()) for card in cards_in(shown)]
        assert [wrong in texts[0], right in texts[1], right in texts[2]] == [True] * 3, texts


def cards_in(shown: str) -> list[str]:
    """The three cards' text."""
    return [part.split("</section>")[0] for part in shown.split('class="vdd-card"')[1:]]


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "//etc/passwd",
        "%2Fetc%2Fpasswd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "../../../../etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1:1/",
        str(Path(__file__)),
        str(Path(__file__).parents[1] / "pyproject.toml"),
        "pyproject.toml",
        ".git/config",
    ],
)
def test_no_path_of_the_machine_is_given_out(served, path):
    for prefix in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/", "/gradio_api/proxy="):
        status, body = served.asked("GET", prefix + path)
        assert status in (400, 403, 404), (prefix, status, body[:100])
        assert b"root:" not in body
        assert b"visual-debias" not in body


def test_no_path_of_the_machine_is_read_as_an_image(served):
    for path in ("/etc/passwd", str(Path(__file__).parents[1] / "docs" / "examples.png"), "http://127.0.0.1:1/a.png"):
        status, said = ask(served, path, FOX.question)
        assert (status, said) == ("403", "Only files that were uploaded here are read.")


@pytest.mark.parametrize(
    ("content", "question", "said"),
    [
        (None, FOX.question, "There is no image yet"),
        (b"not an image", FOX.question, "odd.png: not an image; wanted JPEG"),
        (b"", FOX.question, "odd.png: 0 bytes"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", FOX.question, "odd.png: not an image"),
        (png(FOX.image)[:300], FOX.question, "odd.png: cannot be decoded"),
        (png(FOX.image), "  ", "The question is empty"),
        (png(FOX.image), "What is <image>?", "holds &#x27;&lt;image&gt;&#x27;"),
    ],
)
def test_mistakes_are_answered_in_words(served, content, question, said):
    path = None
    if content is not None:
        path = json.loads(upload(served, content, "odd.png")[1])[0]
    note, shown = ask(served, path, question, name="odd.png")
    assert said in note
    assert 'role="alert"' in note
    assert "Traceback" not in note + shown


def test_settings_that_no_slider_has_are_answered_in_words(served):
    path = json.loads(upload(served, png(FOX.image))[1])[0]
    for alpha in (-1, "much", None, 1e9, [1]):
        assert "alpha is" in ask(served, path, FOX.question, alpha=alpha)[0]


def test_a_file_that_is_too_large_is_refused_at_the_door(served):
    status, _ = upload(served, bytes(21 * 2**20))
    assert status == 413


def test_foreign_names_and_unneeded_doors_are_closed(served):
    assert served.asked("GET", "/", Host="evil.example")[0] == 421
    assert served.asked("GET", "/")[0] == 200
    for path in ("/monitoring", "/monitoring/summary", "/docs", "/gradio_api/openapi.json", "/gradio_api/runs"):
        assert served.asked("GET", path)[0] == 404


def test_the_page_names_nothing_outside_but_in_tags_that_load_nothing(served):
    status, body = served.asked("GET", "/")
    assert status == 200
    page = body.decode()
    assert "googleapis" not in page
    assert '"analytics_enabled": false' in page or '"analytics_enabled":false' in page


def test_nothing_but_the_address_was_printed(served):
    assert served.said.read_text("utf-8").splitlines() == [f"{served.url}/ (Ctrl-C ends it)"]


@pytest.mark.slow
def test_on_another_address_everybody_is_let_in_with_a_warning_and_opens_no_models(tmp_path):
    if find_spec("gradio") is None:
        pytest.skip("the page needs Gradio: pip install 'visual-debias-decoding[app]'")
    with running(tmp_path, "--host", "0.0.0.0") as server:
        assert "warning: 0.0.0.0 lets everybody in who can reach this machine" in server.said.read_text("utf-8")
        assert server.asked("GET", "/", Host="a.name.in.the.net")[0] == 200
        parts = {part["props"].get("elem_id") for part in json.loads(server.asked("GET", "/config")[1])["components"]}
        assert "ask" in parts
        assert not parts & {"load", "model"}
        assert server.asked("GET", "/gradio_api/file=/etc/passwd")[0] == 403


@pytest.mark.parametrize(
    ("host", "port", "said"),
    [("::1", 7860, "wanted a name or an IPv4"), ("203.0.113.9", 7860, "cannot be listened on")],
)
def test_an_address_that_is_none_is_said_before_a_model_is_opened(host, port, said):
    with pytest.raises(UserError, match=said):
        serve(lambda name: pytest.fail("a model was opened"), "toy", host=host, port=port)


def test_a_port_that_is_taken_is_said(served, pipeline):
    with pytest.raises(UserError, match="cannot be listened on"):
        serve(lambda name: pipeline, "toy", port=served.port)
    with pytest.raises(UserError, match="from 1 to 65535"):
        serve(lambda name: pipeline, "toy", port=0)
