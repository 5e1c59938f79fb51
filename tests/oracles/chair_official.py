"""CHAIR in the order of its authors' script, one caption at a time, written from the rules alone.

Two ways to undo plurals: `by_forms` looks a word up among plurals that were formed from the table's words, the other
way round than the package; `by_pattern` has the rules of the library that the original script calls, with its faults.
"""

from __future__ import annotations

SIGNS = ".,;:!?()[]{}\"'“”*"
IRREGULAR = {
    "man": "men", "woman": "women", "gentleman": "gentlemen", "policeman": "policemen", "serviceman": "servicemen",
    "child": "children", "grandchild": "grandchildren", "goose": "geese", "mouse": "mice", "thief": "thieves",
    "knife": "knives", "pocketknife": "pocketknives", "calf": "calves", "ox": "oxen",
}  # fmt: skip


def words_of(caption: str) -> list[str]:
    """Lower-case words and signs."""
    found = []
    for piece in caption.lower().split():
        before, after = [], []
        while piece and piece[0] in SIGNS:
            before.append(piece[0])
            piece = piece[1:]
        while piece and piece[-1] in SIGNS:
            after.insert(0, piece[-1])
            piece = piece[:-1]
        if piece.endswith("'s"):
            piece, after = piece[:-2], ["'s", *after]
        found += [*before, *([piece] if piece else []), *after]
    return found


def plural(word: str) -> str:
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word[-1] == "y" and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    return word + "s"


def by_forms(table):
    """word → singular, from the plurals of every single word in the table."""
    singles = {part for name in (*table["synonyms"], *table["double_words"]) for part in name.split()}
    forms = {plural(word): word for word in sorted(singles)}
    forms.update({word: word for word in singles})
    return lambda word: forms.get(word, word)


def by_pattern(word: str) -> str:
    """The rules that may meet a word of COCO's table, in their order."""
    for unchanged in ("bison", "debris", "scissors", "series", "luggage", "trout", "chassis", "species", "news"):
        if unchanged.endswith(word):
            return word
    for kept in ("doggie", "collie", "cookie", "veggie"):
        if word.endswith(kept + "s"):
            return word[:-1]
    for many, one in (("people", "person"), ("children", "child"), ("geese", "goose"), ("men", "man"), ("oxen", "ox")):
        if word.endswith(many):
            return word[: -len(many)] + one
    if word.startswith("oxen"):
        return "ox"
    endings = (
        ("shoes", "shoe"), ("oes", "o"), ("buses", "bus"), ("mice", "mouse"), ("lice", "louse"), ("xes", "x"),
        ("ches", "ch"), ("sses", "ss"), ("shes", "sh"),
    )  # fmt: skip
    for many, one in endings:
        if word.endswith(many):
            return word[: -len(many)] + one
    if word.endswith("ies") and len(word) > 3 and word[-4] not in "aeiouy":
        return word[:-3] + "y"
    if word.endswith(("tives", "sives", "hives")):
        return word[:-1]
    if word.endswith("ves"):
        before = word[:-3]
        if before.endswith(("al", "el", "ol", "ar", "l", "r")):
            return before + "f"
        if before.endswith(("ni", "li", "wi")):
            return before + "fe"
        return before + ("ve" if before.endswith(("a", "e", "o")) else "fe")
    return word[:-1] if word.endswith("s") else word


def objects_in(caption: str, table, singular) -> list[str]:
    words = [singular(word) for word in words_of(caption)]
    merged = []
    i = 0
    while i < len(words):
        pair = " ".join(words[i : i + 2])
        if pair in table["double_words"]:
            merged.append(table["double_words"][pair])
            i += 2
        else:
            merged.append(words[i])
            i += 1
    if "toilet" in merged and "seat" in merged:
        merged = [word for word in merged if word != "seat"]
    return [table["synonyms"][word] for word in merged if word in table["synonyms"]]


def chair_scores(captions, objects, table, singular) -> dict[str, float]:
    """Captions as (image id, text); objects by image id."""
    hallucinated_captions = hallucinated = mentioned = recalled = present = words = 0
    for image_id, text in captions:
        named = objects_in(text, table, singular)
        wrong = [name for name in named if name not in objects[image_id]]
        hallucinated_captions += len(wrong) > 0
        hallucinated += len(wrong)
        mentioned += len(named)
        recalled += len({name for name in named if name in objects[image_id]})
        present += len(set(objects[image_id]))
        words += len(text.split())
    return {
        "chair_s": hallucinated_captions / len(captions),
        "chair_i": hallucinated / mentioned if mentioned else 0.0,
        "recall": recalled / present if present else 0.0,
        "words": words / len(captions),
        "mentions": mentioned,
        "hallucinated": hallucinated,
    }
