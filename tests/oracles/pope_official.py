"""POPE's scoring as its evaluate.py does it, and as the script of the VCD family does it, written from the rules alone.

Official: cut the answer at the first full stop, drop commas, split on single spaces; any of No, not, no among the words
means "no", everything else "yes". VCD: look for the label itself, in lower case, anywhere in the answer.
"""

from __future__ import annotations


def official_prediction(answer: str) -> str:
    sentence = ""
    for character in answer:
        if character == ".":
            break
        if character != ",":
            sentence += character
    for word in sentence.split(" "):
        if word in ("No", "not", "no"):
            return "no"
    return "yes"


def quotient(above: float, below: float) -> float:
    return above / below if below else 0.0


def official_scores(labels: list[str], answers: list[str]) -> dict[str, float]:
    tp = fp = tn = fn = 0
    said_yes = 0
    for label, answer in zip(labels, answers, strict=True):
        prediction = official_prediction(answer)
        said_yes += prediction == "yes"
        if label == "yes" and prediction == "yes":
            tp += 1
        elif label == "no" and prediction == "yes":
            fp += 1
        elif label == "no" and prediction == "no":
            tn += 1
        else:
            fn += 1
    precision = quotient(float(tp), float(tp + fp))
    recall = quotient(float(tp), float(tp + fn))
    return {
        "accuracy": (tp + tn) / (tp + tn + fp + fn),
        "precision": precision,
        "recall": recall,
        "f1": quotient(2 * precision * recall, precision + recall),
        "yes_ratio": said_yes / len(answers),
    }


def vcd_scores(labels: list[str], answers: list[str]) -> dict[str, float]:
    true_pos = true_neg = false_pos = false_neg = yes_answers = 0
    for label, answer in zip(labels, answers, strict=True):
        answer = answer.lower().strip()
        if label == "yes":
            if "yes" in answer:
                true_pos += 1
                yes_answers += 1
            else:
                false_neg += 1
        elif "no" in answer:
            true_neg += 1
        else:
            yes_answers += 1
            false_pos += 1
    precision = quotient(true_pos, true_pos + false_pos)
    recall = quotient(true_pos, true_pos + false_neg)
    return {
        "accuracy": (true_pos + true_neg) / len(labels),
        "precision": precision,
        "recall": recall,
        "f1": quotient(2 * precision * recall, precision + recall),
        "yes_ratio": yes_answers / len(labels),
    }
