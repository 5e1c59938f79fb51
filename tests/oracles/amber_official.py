"""AMBER's scoring as its inference.py goes through it, list by list, written from the rules alone.

`similar` and the list of nouns come from outside, as spaCy and nltk do there. Rounding and the small numbers that the
script adds to its denominators are left out.
"""

from __future__ import annotations


def quotient(above: float, below: float) -> float:
    return above / below if below else 0.0


def generative(cases, association, safe, similar) -> dict[str, float]:
    """cases: (present, imagined, nouns) for each response."""
    hallucinated = mentions = covered = present_count = met = imagined_count = clean = 0
    for present, imagined, nouns in cases:
        good, good_owner = [], []
        for number, name in enumerate(present):
            for other in association.get(name, []):
                good.append(other)
                good_owner.append(number)
        bad, bad_owner = [], []
        for number, name in enumerate(imagined):
            for other in association.get(name, []):
                bad.append(other)
                bad_owner.append(number)
        good += present
        good_owner += list(range(len(present)))
        bad += imagined
        bad_owner += list(range(len(imagined)))
        good_hit, bad_hit = [0] * len(present), [0] * len(imagined)
        wrong = 0
        for noun in nouns:
            if noun in safe:
                continue
            if noun in good:
                good_hit[good_owner[good.index(noun)]] = 1
                continue
            if noun in bad:
                bad_hit[bad_owner[bad.index(noun)]] = 1
            for j, other in enumerate(bad):
                if similar(noun, other):
                    bad_hit[bad_owner[j]] = 1
                    break
            forgiven = False
            for j, other in enumerate(good):
                if similar(noun, other):
                    good_hit[good_owner[j]] = 1
                    forgiven = True
                    break
            if not forgiven:
                wrong += 1
        hallucinated += wrong
        mentions += len(nouns)
        covered += sum(good_hit)
        present_count += len(present)
        met += sum(bad_hit)
        imagined_count += len(imagined)
        clean += wrong == 0
    return {
        "chair": quotient(hallucinated, mentions),
        "cover": quotient(covered, present_count),
        "hal": 1 - quotient(clean, len(cases)),
        "cog": quotient(met, imagined_count),
    }


def discriminative(labels, answers) -> dict[str, float]:
    correct = no_questions = no_found = no_answers = no_right = 0
    for label, answer in zip(labels, answers, strict=True):
        if label == "yes":
            correct += answer == "Yes"
        else:
            no_questions += 1
            if answer == "No":
                correct += 1
                no_found += 1
        if answer == "No":
            no_answers += 1
            no_right += label == "no"
    precision, recall = quotient(no_right, no_answers), quotient(no_found, no_questions)
    return {
        "accuracy": correct / len(labels),
        "precision": precision,
        "recall": recall,
        "f1": quotient(2 * precision * recall, precision + recall),
    }
