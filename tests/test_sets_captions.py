import json

import pytest

from vdd._check import UserError
from vdd.sets.amber import Item, load_annotations, load_association, load_responses, load_safe_words
from vdd.sets.captions import (
    DOUBLE_WORDS,
    Caption,
    Vocabulary,
    image_id_of,
    load_captions,
    load_objects,
    load_vocabulary,
)


def written(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.mark.parametrize(
    "record",
    [
        {"image_id": 42, "caption": "A dog."},
        {"image_id": "000000000042", "caption": "A dog."},
        {"question_id": 7, "image": "val2014/COCO_val2014_000000000042.jpg", "question": "Describe.", "text": "A dog."},
        {"question_id": 42, "prompt": "Describe.", "text": "A dog.", "model_id": "m"},
        {"image_id": "42.png", "answer": "A dog."},
    ],
)
def test_captions_are_read_in_every_form_in_use(tmp_path, record):
    want = [Caption("42", "A dog.")]
    assert load_captions(written(tmp_path / "lines.jsonl", lines(record))) == want
    assert load_captions(written(tmp_path / "array.json", [record])) == want


def test_an_answer_with_an_error_has_no_caption_and_an_empty_caption_is_one(tmp_path):
    path = written(
        tmp_path / "c.jsonl",
        lines({"image_id": 1, "text": "", "error": "unreadable"}, {"image_id": 2, "caption": ""}),
    )
    assert load_captions(path) == [Caption("1", None), Caption("2", "")]


@pytest.mark.parametrize(
    ("value", "image_id"),
    [
        (0, "0"),
        ("0", "0"),
        ("COCO_train2014_000000000009.jpg", "9"),
        ("a/b/kitchen 2.png", "kitchen 2.png"),
        (r"a\7.jpg", "7"),
    ],
)
def test_an_image_has_one_id_in_all_files(value, image_id):
    assert image_id_of(value, "here") == image_id


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines({"caption": "A dog."}), r"c\.jsonl, line 1: no image in it \(it has caption\)"),
        (lines({"image_id": 1}), r"line 1: no caption in it \(it has image_id\)"),
        (lines({"image_id": 1, "caption": None}), "no caption in it"),
        (lines({"image_id": True, "caption": "x"}), "the image is True"),
        (lines({"image_id": 1, "caption": "x"}, {"image_id": "1", "caption": "y"}), "line 2: image 1 again"),
        ("", "nothing in it"),
    ],
)
def test_broken_captions_are_named_by_file_and_line(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        load_captions(written(tmp_path / "c.jsonl", content))


def test_objects_are_sets_by_id(tmp_path):
    path = written(tmp_path / "o.json", {"42": ["dog", "dog", "person"], "7": []})
    assert load_objects(path) == {"42": frozenset({"dog", "person"}), "7": frozenset()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"42": "dog"}, "image '42': its objects are 'dog'"),
        ({"42": [1]}, "wanted a list of names"),
        ({"42": [], "042": []}, "image 42 again"),
        ([], "found a JSON list"),
        ({}, "an empty object"),
        ("{", "broken JSON"),
    ],
)
def test_broken_objects_are_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        load_objects(written(tmp_path / "o.json", content))


def test_a_missing_or_unreadable_file_is_told(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: no such file; wanted one JSON object"):
        load_objects(tmp_path / "none.json")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="cannot be read"):
        load_safe_words(tmp_path / "latin.txt")


def test_both_forms_of_the_words_are_the_same_words(tmp_path):
    text = written(tmp_path / "synonyms.txt", "dog, puppy\ntie, bow tie\nmotorcycle,  motor bike\nbison \n")
    table = {"dog": "dog", "puppy": "dog", "tie": "tie", "bow tie": "tie", "motorcycle": "motorcycle"}
    table |= {" motor bike": "motorcycle", "bison": "bison"}
    from_text = load_vocabulary(text)
    assert from_text == Vocabulary(table, DOUBLE_WORDS)
    body = {"synonyms": table, "double_words": dict(DOUBLE_WORDS)}
    assert load_vocabulary(written(tmp_path / "synonyms.json", body)) == from_text
    assert {"dog", "puppy", "bow", "motor", "bike", "hydrant", "passenger"} <= from_text.words
    assert from_text.objects == {"dog", "tie", "motorcycle", "bison"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.txt", "dog, puppy\ncat, puppy\n", "line 2: 'puppy' names 'dog' already"),
        ("s.txt", "dog,, puppy\n", "line 1: nothing between two commas"),
        ("s.txt", "\n\n", "nothing in it"),
        ("s.json", {"synonyms": {"dog": "dog"}}, "found synonyms; wanted"),
        ("s.json", {"synonyms": {"dog": 1}, "double_words": {}}, "wanted a JSON object"),
    ],
)
def test_broken_words_are_refused(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message):
        load_vocabulary(written(tmp_path / name, content))


@pytest.mark.data
def test_the_built_in_double_words_are_those_of_the_real_table(shared_data):
    # "stove top oven" is three words and never met, "wine glas" is what the original's plurals leave of "wine glass"
    real = load_vocabulary(shared_data / "chair" / "synonyms.json").double_words
    assert dict(real) == {**DOUBLE_WORDS, "stove top oven": "stove top oven", "wine glas": "wine glass"}


ANNOTATIONS = [
    {"id": 1, "type": "generative", "truth": ["sky", "grass"], "hallu": ["sun"]},
    {"id": 2, "type": "discriminative-attribute-state", "truth": "yes"},
    {"id": 3, "type": "discriminative-attribute-number", "truth": "no"},
    {"id": 4, "type": "discriminative-attribute-action", "truth": "no"},
    {"id": 5, "type": "discriminative-hallucination", "truth": "no"},
    {"id": 6, "type": "discriminative-relation", "truth": "yes"},
    {"id": 7, "type": "relation", "truth": "no"},
]


def test_ambers_files_are_read(tmp_path):
    items = load_annotations(written(tmp_path / "annotations.json", ANNOTATIONS))
    assert items[1] == Item(1, "generative", ("sky", "grass"), ("sun",))
    assert [(i.kind, i.label) for i in list(items.values())[1:]] == [
        ("state", "yes"), ("number", "no"), ("action", "no"), ("existence", "no"),
        ("relation", "yes"), ("relation", "no"),
    ]  # fmt: skip
    assert load_association(written(tmp_path / "relation.json", {"sky": [], "grass": ["ground"]})) == {
        "sky": (),
        "grass": ("ground",),
    }
    assert load_safe_words(written(tmp_path / "safe.txt", "orange\r\nlight\n\n")) == {"orange", "light"}
    responses = written(tmp_path / "r.json", [{"id": 2, "response": "Yes"}, {"question_id": "1", "text": ""}])
    assert list(load_responses(responses).items()) == [(2, "Yes"), (1, "")]


@pytest.mark.parametrize(
    ("reader", "content", "message"),
    [
        (load_annotations, [ANNOTATIONS[0], ANNOTATIONS[0]], "item 2: id 1 again"),
        (load_annotations, [{"type": "relation", "truth": "no"}], "id is None"),
        (load_annotations, [{"id": 1, "type": "color", "truth": "no"}], "type is 'color'"),
        (load_annotations, [{"id": 1, "type": "relation", "truth": "No"}], "truth is 'No'; wanted yes or no"),
        (load_annotations, [{"id": 1, "type": "generative", "truth": "sky", "hallu": []}], "truth is 'sky'"),
        (load_association, {"sky": "cloud"}, "sky is 'cloud'; wanted a list of words"),
        (load_responses, [{"id": 1, "response": "a"}, {"id": "1", "response": "b"}], "id 1 again"),
        (load_responses, [{"id": 1, "answer": None}], "no response in it"),
        (load_responses, [{"id": "one", "response": "a"}], "id is 'one'"),
    ],
)
def test_broken_files_of_amber_are_refused(tmp_path, reader, content, message):
    with pytest.raises(UserError, match=message):
        reader(written(tmp_path / "file.json", content))
