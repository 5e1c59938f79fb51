"""What post-hoc legs answer, from a run's stored first-token rows alone, in NumPy; nothing of the project is imported.

    p(label) = Σ over its tokens of p(token | image),   p'(label) likewise without the image, divided by its sum
    on top of VDD, p is first moved:  log p*(t) = (1+α) log p(t) − α log p'(t) + const  where p(t) ≥ β · max p, else −∞
    ŷ = argmax p / (p' + 1e-4)

Source: arXiv:2403.05262. For labels of one token a form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Rows = Mapping[str, np.ndarray]


def of_each_question(rows: Rows) -> dict[str, np.ndarray]:
    """(questions, vocab) log-probabilities in float64: image-free rows are stored once each, behind an index."""
    found = {"image": rows["image"].astype(np.float64)}
    for name in ("none", "unk"):
        found[name] = rows[name].astype(np.float64)[rows[f"{name}_index"]]
    return found


def moved(rows: Rows, reference: str, alpha: float, beta: float) -> np.ndarray:
    """(questions, vocab) contrasted probabilities."""
    blind = (rows["none"] + rows["unk"]) / 2 if reference == "both" else rows[reference]
    scores = (1 + alpha) * rows["image"] - alpha * blind
    p = np.exp(rows["image"])
    scores = np.where(p >= beta * p.max(-1, keepdims=True), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def of_labels(probabilities: np.ndarray, forms: Sequence[Sequence[int]]) -> np.ndarray:
    """(questions, labels) sums over each label's tokens."""
    return np.stack([probabilities[:, list(tokens)].sum(-1) for tokens in forms], axis=-1)


def post_hoc(probabilities: np.ndarray, rows: Rows, reference: str, forms: Sequence[Sequence[int]]) -> np.ndarray:
    """(questions, labels) debiased label probabilities."""

    def prior(name: str) -> np.ndarray:
        p = of_labels(np.exp(rows[name]), forms)
        return p / p.sum(-1, keepdims=True)

    blind = (prior("none") + prior("unk")) / 2 if reference == "both" else prior(reference)
    p = of_labels(probabilities, forms)
    scores = p / p.sum(-1, keepdims=True) / (blind + 1e-4)
    return scores / scores.sum(-1, keepdims=True)
