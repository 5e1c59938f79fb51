"""How alike two answers are: by words, by what they mention, by an embedder; and how the words' ε was chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vdd._check import UserError
from vdd.preference.similarity import (
    EMBEDDER,
    EMBEDDER_EPSILON,
    WORDS_EPSILON,
    Embedder,
    NamedThings,
    Words,
    chosen_epsilon,
    fallback,
)
from vdd.sets.captions import DOUBLE_WORDS, Vocabulary
from vdd.toy.scenes import COLORS, OBJECTS, POSITIONS, article, caption, scene_at

THINGS = NamedThings({"fox": "fox", "bus": "bus", "coach": "bus", "hot dog": "hot dog", "dog": "dog"})


def one(measure, chosen, rejected):
    (value,) = measure([chosen], [rejected])
    return value


def phrased(item, kind):
    """An item of a scene, said in one of six ways."""
    thing, place = f"{article(item.color)} {item.color} {item.object}", POSITIONS[item.cell]
    return (
        f"{thing} is {place}.",
        f"{place} there is {thing}.",
        f"I can see {thing} {place}.",
        f"the image shows {thing} {place}.",
        f"{place} stands {thing}.",
        f"The {item.object} {place} is {item.color}.",
    )[kind]


def paraphrase(scene, rng):
    kinds = rng.integers(6, size=len(scene.items))
    return " ".join(phrased(scene.items[place], kinds[place]) for place in rng.permutation(len(scene.items)))


def with_one_thing_wrong(scene, rng):
    place = int(rng.integers(len(scene.items)))
    item = scene.items[place]
    if rng.random() < 0.5:
        item = replace(item, color=str(rng.choice([color for color in COLORS if color != item.color])))
    else:
        item = replace(item, object=str(rng.choice([name for name in OBJECTS if name not in scene.objects])))
    return replace(scene, items=(*scene.items[:place], item, *scene.items[place + 1 :]))


@pytest.fixture(scope="module")
def captions():
    """(captions with their paraphrases, captions with one thing exchanged) of 200 dev scenes."""
    rng, same, other = np.random.default_rng(0), [], []
    for index in range(200):
        scene = scene_at("dev", index)
        same.append((caption(scene), paraphrase(scene, rng)))
        other.append((caption(scene), caption(with_one_thing_wrong(scene, rng))))
    return same, other


def test_the_words_epsilon_is_what_dev_captions_choose(captions):
    same, other = captions
    assert chosen_epsilon(Words(), same, other) == WORDS_EPSILON == Words().epsilon
    alike, unlike = (np.array(Words()(*zip(*pairs, strict=True))) for pairs in (same, other))
    assert round(alike.mean(), 2) == 0.98
    assert round(unlike.mean(), 2) == 0.82
    assert (unlike < WORDS_EPSILON).all()
    assert round((alike < WORDS_EPSILON).mean(), 2) == 0.22
    assert round((unlike >= 0.9).mean(), 2) == 0.28


def test_what_is_named_parts_paraphrases_from_wrong_captions_without_an_error(captions):
    same, other = captions
    things = NamedThings(OBJECTS)
    assert things(*zip(*same, strict=True)) == [1.0] * len(same)
    assert max(things(*zip(*other, strict=True))) < things.epsilon


def test_the_fallback_says_that_it_is_no_embedder():
    assert fallback() == Words()
    assert "no embedder" in fallback().name
    assert "no embedder" in THINGS.name


def test_an_epsilon_is_chosen_between_the_kinds():
    def length(chosen, rejected):
        return [len(text) / 100 for text in rejected]

    same, other = [("", "x" * 80), ("", "x" * 90)], [("", "x" * 30), ("", "x" * 62)]
    assert chosen_epsilon(length, same, other) == 0.8
    with pytest.raises(UserError, match="0 pairs that agree"):
        chosen_epsilon(length, [], other)


@pytest.mark.parametrize(
    ("chosen", "rejected", "value"),
    [
        ("A red bus.", "a RED\n  bus", 1.0),
        ("a red bus", "there is a red fox in the image", 0.5),
        ("a red red bus", "a red bus", 0.8),
        ("Yes", "No", 0.0),
        ("It is.", "It was.", 0.5),
        ("", "", 1.0),
        ("a bus", "", 0.0),
    ],
)
def test_words_are_compared_by_f1_without_the_smallest(chosen, rejected, value):
    assert one(Words(), chosen, rejected) == pytest.approx(value)
    assert one(Words(), rejected, chosen) == pytest.approx(value)


@given(st.text(), st.text())
def test_measures_stay_in_range_and_know_a_text_again(left, right):
    for measure in (Words(), THINGS):
        assert 0.0 <= one(measure, left, right) <= 1.0
        assert one(measure, left, f" {left}\n") == 1.0


@pytest.mark.parametrize(
    ("text", "mentioned"),
    [
        ("Two red foxes, but no bus.", {("", "fox"), ("2", "fox"), ("red", "fox"), ("", "bus"), ("no", "bus")}),
        ("The coach is grey", {("", "bus"), ("gray", "bus")}),
        ("There isn’t a fox.", {("", "fox"), ("no", "fox")}),
        ("Yes. A big violet fox!", {("yes", ""), ("", "fox"), ("purple", "fox")}),
        ("A fox. Red.", {("", "fox"), ("red", "")}),
        ("hot dogs", {("", "hot dog")}),
        ("7 dogs in the North know nothingness", {("", "dog"), ("7", "dog")}),
        ("nice", set()),
    ],
)
def test_what_is_mentioned(text, mentioned):
    assert set(THINGS.mentioned(text)) == mentioned


@pytest.mark.parametrize(
    ("chosen", "rejected", "value"),
    [
        ("a red bus and a blue fox", "there is a blue fox; there is a red bus", 1.0),
        ("a red bus and a blue fox", "a blue bus and a red fox", 2 / 6),
        ("there is a bus but no fox", "there is a fox but no bus", 2 / 4),
        ("yes", "no", 0.0),
        ("a bus", "a coach", 1.0),
        ("two dogs", "three dogs", 1 / 3),
        ("it is big", "it is small", 2 / 4),
        ("a bus", "nice", 0.0),
    ],
)
def test_mentions_are_compared_by_their_jaccard_index(chosen, rejected, value):
    assert one(THINGS, chosen, rejected) == pytest.approx(value)


def test_names_come_in_any_form():
    for words in (["fox", "hot dog"], {"fox": "fox", "hot dog": "hot dog"}):
        assert set(NamedThings(words).mentioned("foxes eat hot dogs")) == {("", "fox"), ("", "hot dog")}
    chair = NamedThings(Vocabulary({"fox": "fox", "hot dog": "hot dog"}, DOUBLE_WORDS))
    assert set(chair.mentioned("foxes eat hot dogs")) == {("", "fox"), ("", "hot dog")}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NamedThings([]), "words is empty"),
        (lambda: NamedThings("fox"), "wanted several names"),
        (lambda: Words(epsilon=1.5), "epsilon is 1.5"),
        (lambda: Words()(["a"], []), "1 chosen answers, 0 rejected"),
    ],
)
def test_mistakes_are_told(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.fixture(scope="module")
def embedder_folder(tmp_path_factory):
    """A random BERT with mean pooling, saved as sentence-transformers does."""
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="extra `embed` is not installed")
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "bus", "fox", "."]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    try:
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    except ImportError:
        from sentence_transformers.models import Pooling, Transformer
    reader = Transformer(str(folder))
    model = sentence_transformers.SentenceTransformer(modules=[reader, Pooling(16)], device="cpu")
    model.save(str(folder / "saved"))
    return folder / "saved"


def test_an_embedder_gives_the_cosine_of_mean_pooled_states(embedder_folder):
    from transformers import AutoModel, AutoTokenizer

    embedder = Embedder(str(embedder_folder), device="cpu")
    assert embedder.epsilon == EMBEDDER_EPSILON == 0.97
    assert str(embedder_folder) in embedder.name
    chosen, rejected = ["A red bus.", "a fox", "blue bus ."], ["a blue bus .", "A  FOX", "fox"]
    tokenizer = AutoTokenizer.from_pretrained(embedder_folder)
    model = AutoModel.from_pretrained(embedder_folder).eval()

    def embedded(text):
        with torch.no_grad():
            return model(**tokenizer(text.lower(), return_tensors="pt")).last_hidden_state[0].mean(0)

    wanted = [
        torch.cosine_similarity(embedded(a), embedded(b), dim=0).item() for a, b in zip(chosen, rejected, strict=True)
    ]
    assert embedder(chosen, rejected) == pytest.approx(wanted, abs=1e-5)
    assert embedder(chosen, rejected)[1] == 1.0
    assert embedder([], []) == []


def test_an_embedder_that_is_not_there_is_told_with_what_is_used_instead(tmp_path):
    pytest.importorskip("sentence_transformers", reason="extra `embed` is not installed")
    with pytest.raises(UserError, match=r"cannot be loaded .*compared by their words"):
        Embedder(str(tmp_path / "gone"))


def test_a_missing_package_is_told_with_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"visual-debias-decoding\[embed\]"):
        Embedder()


@pytest.mark.weights
def test_the_papers_embedder_parts_what_is_the_same_from_what_is_not():
    pytest.importorskip("sentence_transformers", reason="extra `embed` is not installed")
    try:
        embedder = Embedder(EMBEDDER)
    except UserError as error:
        pytest.skip(f"the weights are not here: {error}")
    chosen = "The image shows a red bus parked beside a tree."
    same, other = embedder(
        [chosen, chosen], ["A red bus is parked next to a tree in the image.", "A dog sleeps on a green sofa."]
    )
    assert other < same
    assert other < EMBEDDER_EPSILON
    assert embedder([chosen], [chosen.upper()]) == [1.0]
