"""Post-hoc debiasing of answers that are one of a few labels: divide out what the model answers without the image.

    ŷ = argmax W p + b,   W = diag(p')⁻¹, b = 0, renormalised     (mode "diagonal")
                          W = I,          b = −p'                 (mode "identity")

p is the distribution over the labels given the image, p' the same for a meaningless input, so that with no image every
label scores alike.

Source: arXiv:2403.05262, after arXiv:2102.09690 (contextual calibration).
Knows: tensors, a tokenizer's call. Does not know: models, images, files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vdd._check import UserError, choice, real

MODES = ("diagonal", "identity")
SMOOTHING = 1e-4
"""Added to p' before dividing, as in the authors' code, so that no label wins for want of a prior alone."""

TokenIds = tuple[int, ...]


@dataclass(frozen=True)
class AffineCalibration:
    """Scores W p + b of label probabilities.

    Attributes:
        weight: (labels, labels) or (batch, labels, labels).
        bias: (labels,) or (batch, labels).
        renormalise: divide by the sum, so that the scores are probabilities; the diagonal mode alone.
    """

    weight: Tensor
    bias: Tensor
    renormalise: bool

    @classmethod
    def from_prior(
        cls, prior: Tensor, *, mode: str = "diagonal", average: bool = False, smoothing: float = SMOOTHING
    ) -> AffineCalibration:
        """The calibration under which the prior itself scores all labels alike.

        Args:
            prior: (batch, labels) p' of each sample, ≥ 0; rows need not sum to 1.
            mode: one of MODES.
            average: use one p', the mean over the batch, instead of each sample's own.
            smoothing: added to the normalised p', ≥ 0.

        Raises:
            ValueError: on a prior that is not (batch, labels), negative, NaN, or zero throughout a row.
        """
        choice("calibrate", "mode", mode, MODES)
        real("calibrate", "smoothing", smoothing, low=0.0)
        prior = _normalised(prior, "the prior")
        if average:
            prior = prior.mean(dim=0, keepdim=True)
        prior = prior + smoothing
        if mode == "identity":
            return cls(torch.eye(prior.shape[-1], dtype=prior.dtype, device=prior.device), -prior, renormalise=False)
        if bool((prior == 0).any()):
            raise UserError("calibrate: the prior of a label is 0 and smoothing is off; wanted smoothing > 0.")
        return cls(torch.diag_embed(1 / prior), torch.zeros_like(prior[0]), renormalise=True)

    def __call__(self, probabilities: Tensor) -> Tensor:
        """Debiased scores.

        Args:
            probabilities: (batch, labels) given the image, ≥ 0; normalised over the labels first.

        Returns:
            (batch, labels): probabilities in the diagonal mode; in the identity mode scores that only rank.

        >>> calibration = AffineCalibration.from_prior(torch.tensor([[0.67, 0.33]]), smoothing=0)
        >>> calibration(torch.tensor([[0.55, 0.45]])).round(decimals=3)
        tensor([[0.3760, 0.6240]])
        """
        probabilities = _normalised(probabilities, "the label probabilities")
        scores = torch.einsum("...ij,...j->...i", self.weight, probabilities) + self.bias
        return scores / scores.sum(dim=-1, keepdim=True) if self.renormalise else scores


@dataclass(frozen=True)
class Labels:
    """The answers a question may have, as the token sequences that stand for them.

    Attributes:
        names: the labels, in the order of every (batch, labels) tensor.
        forms: for each label its surface forms ("yes", "Yes", …) as token ids; no form begins with another.
    """

    names: tuple[str, ...]
    forms: tuple[tuple[TokenIds, ...], ...]

    @classmethod
    def from_words(
        cls, encode: Callable[[str], Sequence[int]], words: Sequence[str] | Mapping[str, Sequence[str]]
    ) -> Labels:
        """Labels from words.

        Args:
            encode: text → token ids without special tokens.
            words: the labels; each stands for itself as written, in lower case and capitalised, with and without a
                space before, by one token wherever the tokenizer has one. Or label → its surface forms, taken as
                they are.

        Raises:
            ValueError: on fewer than two labels, or where one label's form begins another label's.
        """
        if len(set(words)) < 2:
            raise UserError(f"calibrate: {len(set(words))} label(s) came; wanted at least two to choose between.")
        if isinstance(words, Mapping):
            encoded = {name: {tuple(encode(text)) for text in surface} - {()} for name, surface in words.items()}
        else:
            encoded = _apart({word: {tuple(encode(text)) for text in _spellings(word)} - {()} for word in words})
        forms = []
        for name, ids in encoded.items():
            if not ids:
                raise UserError(
                    f"calibrate: the label {name!r} has no tokens of its own; "
                    "wanted labels that can be told apart. Does the tokenizer know the word?"
                )
            forms.append(tuple(sorted(form for form in ids if not any(_begins(o, form) for o in ids - {form}))))
        labels = cls(tuple(encoded), tuple(forms))
        labels._check_apart()
        return labels

    @property
    def single_token(self) -> bool:
        """True where the next-token distribution alone gives every label's probability."""
        return all(len(form) == 1 for forms in self.forms for form in forms)

    def probabilities(
        self,
        log_probs: Tensor,
        *,
        rest: Callable[[TokenIds], Tensor] | None = None,
        best_form: bool = False,
    ) -> Tensor:
        """Probability of each label as the beginning of the answer.

        Args:
            log_probs: (batch, vocab) log-probabilities of the first token.
            rest: for a form of several tokens, (batch,) log-probability of its second to last token, each given those
                before; needed unless `single_token`.
            best_form: take each label's most probable form (the authors' way) instead of the sum over its forms.

        Returns:
            (batch, labels), in [0, 1]; a row sums to less than 1 by what the model says besides the labels.
        """
        columns = []
        for forms in self.forms:
            scores = torch.stack([self._form(log_probs, form, rest) for form in forms], dim=-1)
            columns.append(scores.amax(dim=-1) if best_form else torch.logsumexp(scores, dim=-1))
        return torch.stack(columns, dim=-1).exp()

    @staticmethod
    def _form(log_probs: Tensor, form: TokenIds, rest: Callable[[TokenIds], Tensor] | None) -> Tensor:
        first = log_probs[:, form[0]]
        if len(form) == 1:
            return first
        if rest is None:
            raise UserError(
                f"calibrate: a label has a form of {len(form)} tokens; wanted `rest`, the log-probabilities of the "
                "tokens behind the first."
            )
        return first + rest(form).to(first)

    def _check_apart(self) -> None:
        for i, forms in enumerate(self.forms):
            for j, others in enumerate(self.forms):
                if i != j and any(_begins(a, b) for a in forms for b in others):
                    raise UserError(
                        f"calibrate: the label {self.names[i]!r} has a form that begins one of {self.names[j]!r}; "
                        "wanted labels that can be told apart. Does the tokenizer know both words?"
                    )


def average_prior(*priors: Tensor) -> Tensor:
    """p' of the reference `both`: the mean of several (batch, labels) priors, each normalised over the labels first."""
    return torch.stack([_normalised(prior, "the prior") for prior in priors]).mean(dim=0)


def _begins(form: TokenIds, other: TokenIds) -> bool:
    return other[: len(form)] == form


def _spellings(word: str) -> list[str]:
    plain = {word, word.lower(), word[:1].upper() + word[1:]}
    return sorted(plain | {" " + text for text in plain})


def _apart(encoded: Mapping[str, set[TokenIds]]) -> dict[str, set[TokenIds]]:
    """Without spellings that two labels share (unknown words), and without longer ones where one token says it."""
    apart: dict[str, set[TokenIds]] = {}
    for name, forms in encoded.items():
        others = set[TokenIds]().union(*(found for other, found in encoded.items() if other != name))
        own = forms - others
        single: set[TokenIds] = {form for form in own if len(form) == 1}
        apart[name] = single or own
    return apart


def _normalised(probabilities: Tensor, what: str) -> Tensor:
    values: Any = probabilities if probabilities.dtype == torch.float64 else probabilities.float()
    if values.ndim != 2 or values.shape[-1] < 2:
        raise UserError(f"calibrate: {what} came as {tuple(values.shape)}; wanted (batch, labels), two labels or more.")
    total = values.sum(dim=-1, keepdim=True)
    if not bool(((values >= 0).all() & (total > 0).all() & torch.isfinite(total).all()).item()):
        raise UserError(f"calibrate: {what} came with NaN, negative or all-zero rows; wanted probabilities.")
    return values / total
