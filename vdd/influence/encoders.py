"""Two encoders and what joins them, as functions of chosen parameters: values, tangents, and gradients in pieces.

    u_i = text_i / ‖text_i‖,   v_j = image_j / ‖image_j‖,   S_ij = exp(log_scale) · u_i·v_j + bias

A pair's embeddings depend on that pair alone, so they are computed a chunk at a time, whatever the batches are.

Source: arXiv:2103.00020; forward-mode differentiation by torch.func.
Knows: torch modules. Does not know: losses, batches, transformers, files.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from vdd._check import UserError, whole
from vdd.influence.derivatives import Parameters, central_difference, gradient
from vdd.influence.loss import Contrastive, PairLoss

if TYPE_CHECKING:
    from typing_extensions import Self

SCALE_LIMIT = math.log(100)
"""Where CLIP stops its logit scale (arXiv:2103.00020); a scale that stands there does not move with the data."""


class Inputs(Protocol):
    """What one encoder reads, by position: a tensor, or whatever makes tensors when it is asked."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, places: Tensor) -> Any:
        """The inputs at these places, int64 (n,), as one argument of the encoder."""


@dataclass(frozen=True)
class Pairs:
    """Images and texts that belong together.

    Attributes:
        images, texts: what the encoders read, N each.
        ids: of the pairs, each once.
        texts_alike: (N,) int64, equal where two texts are the same.
    """

    images: Inputs
    texts: Inputs
    ids: Sequence[int | str]
    texts_alike: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, places: Tensor) -> Pairs:
        """The pairs at these positions, int64 (n,)."""
        ids = [self.ids[place] for place in places.tolist()]
        return Pairs(_At(self.images, places), _At(self.texts, places), ids, self.texts_alike[places])


@dataclass(frozen=True)
class _At:
    """Some of an encoder's inputs."""

    inputs: Inputs
    places: Tensor

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, places: Tensor) -> Any:
        return self.inputs[self.places[places]]


@dataclass(frozen=True)
class Embeddings:
    """At one setting of the parameters, or their tangents along a direction, or a function's derivatives by them.

    Attributes:
        texts, images: (n, d); of unit length where they are values.
        joint: (2,) the scale, and the bias.
    """

    texts: Tensor
    images: Tensor
    joint: Tensor


class Towers:
    """A pair of encoders.

    Args:
        image, text: modules, or functions without parameters, that turn a batch of inputs into (n, d).
        log_scale: logarithm of what cosines are multiplied by; a parameter of its own where it is an `nn.Parameter`.
        bias: what is added to the logits; likewise.
        params: regular expression; parameters whose name it is found in are those that scores speak of. The names are
            `image.…`, `text.…`, `log_scale` and `bias`.
        loss: that they were trained by.
        chunk: inputs an encoder reads at once.

    Raises:
        ValueError: where no parameter has such a name, or one is NaN or infinite; where batch normalisation or dropout
            is active, as the loss is then no function of the parameters.
    """

    def __init__(
        self,
        image: Callable[[Any], Tensor],
        text: Callable[[Any], Tensor],
        *,
        log_scale: Tensor | float,
        bias: Tensor | float = 0.0,
        params: str = ".*",
        loss: PairLoss | None = None,
        chunk: int = 256,
    ) -> None:
        self._module = _Pair(image, text, log_scale, bias)
        self.loss: PairLoss = loss or Contrastive()
        self.chunk = whole("towers", "chunk", chunk, low=1)
        refuse_noise(self._module)
        every = {name: value.detach() for name, value in self._module.named_parameters()}
        try:
            wanted = re.compile(params)
        except re.error as error:
            raise UserError(f"towers: params is {params!r}, no regular expression ({error}).") from error
        self.parameters: Parameters = {
            name: value for name, value in every.items() if wanted.search(name) and not self._at_limit(name, value)
        }
        if not self.parameters:
            known = ", ".join(list(every)[:6]) or "none at all"
            raise UserError(f"towers: params is {params!r}, and no parameter has such a name; there are {known}, ….")
        kinds = {(value.dtype, value.device) for value in self.parameters.values()}
        if len(kinds) > 1:
            raise UserError(f"towers: parameters of {len(kinds)} types or devices; wanted all of one, such as float32.")
        ((self.dtype, self.device),) = kinds
        if not self.dtype.is_floating_point:
            raise UserError(f"towers: the parameters are {self.dtype}; wanted floating-point ones, not quantised.")
        self._module.settle(self.dtype, self.device)
        _refuse_infinite({**self.parameters, "exp(log_scale), bias": self._module("joint", None).detach()})
        self._forward_mode = True

    def with_parameters(self, parameters: Parameters) -> Self:
        """The same encoders at other parameters of the same names; the modules themselves stay as they are.

        Raises:
            ValueError: on other names or shapes, NaN or infinite values.
        """
        shapes, came = ({name: tuple(p.shape) for name, p in some.items()} for some in (self.parameters, parameters))
        if came != shapes:
            odd = sorted(str(name) for name in shapes.keys() | came.keys() if shapes.get(name) != came.get(name))
            told = ", ".join(f"{name} is {came.get(name, 'missing')}" for name in odd[:3])
            raise UserError(f"towers: of the parameters {told}; wanted {dict(list(shapes.items())[:6])}.")
        _refuse_infinite(parameters)
        other = copy.copy(self)
        other.parameters = {name: parameters[name] for name in self.parameters}
        return other

    def image_inputs(self, given: Any) -> Inputs:
        """Images as the image encoder reads them; here they are so already, and a list of tensors is stacked."""
        return _stacked(given)

    def text_inputs(self, given: Any) -> Inputs:
        """Texts as the text encoder reads them; here they are so already, and a list of tensors is stacked."""
        return _stacked(given)

    def pairs(self, images: Any, texts: Any, ids: Sequence[int | str] | None = None) -> Pairs:
        """Images and texts that belong together, as the encoders read them.

        Args:
            images, texts: as `image_inputs` and `text_inputs` take them, N each.
            ids: of the pairs; None numbers them.

        Raises:
            ValueError: where there are none, not as many of each, or an id occurs twice.
        """
        ids = range(len(texts)) if ids is None else list(ids)
        refuse_none(ids)
        if not len(images) == len(texts) == len(ids):
            raise UserError(
                f"influence: {len(images)} images, {len(texts)} texts, {len(ids)} ids; wanted as many of each."
            )
        if len(set(ids)) < len(ids):
            raise UserError(f"influence: {len(ids) - len(set(ids))} ids occur twice; wanted each once.")
        known: dict[Any, int] = {}
        keys = [text if isinstance(text, str) else tuple(torch.as_tensor(text).flatten().tolist()) for text in texts]
        alike = torch.tensor([known.setdefault(key, len(known)) for key in keys], dtype=torch.int64)
        return Pairs(self.image_inputs(images), self.text_inputs(texts), ids, alike)

    def embed(self, pairs: Pairs, parameters: Parameters) -> Embeddings:
        """Every pair's embeddings.

        Raises:
            ValueError: where one is NaN or infinite.
        """
        with self._plain(), torch.no_grad():
            texts, images = (self._all(which, pairs, lambda piece: piece(parameters)) for which in ("text", "image"))
            for what, found in (("texts", texts), ("images", images)):
                _refuse_infinite_rows(what, found, pairs.ids)
            return Embeddings(texts, images, self._joint(parameters))

    def tangents(self, pairs: Pairs, parameters: Parameters, direction: Parameters) -> Embeddings:
        """The embeddings' derivatives along a direction."""
        with self._plain(), torch.no_grad():
            texts, images = (
                self._all(which, pairs, lambda piece: self._tangent(piece, parameters, direction))
                for which in ("text", "image")
            )
            return Embeddings(texts, images, self._tangent(self._joint, parameters, direction))

    def gradient(self, pairs: Pairs, parameters: Parameters, by: Embeddings) -> Parameters:
        """A function's derivatives by the parameters, from those by the embeddings."""
        with self._plain(), torch.no_grad():
            total = {name: torch.zeros_like(value) for name, value in parameters.items()}
            for function, given in self._with(pairs, by):
                _add(total, gradient(function, parameters, given))
            return total

    def gradient_tangent(
        self, pairs: Pairs, parameters: Parameters, direction: Parameters, by: Embeddings
    ) -> Parameters:
        """The derivative along a direction of `gradient`, with `by` held as it is."""
        with self._plain(), torch.no_grad():
            total = {name: torch.zeros_like(value) for name, value in parameters.items()}
            for function, given in self._with(pairs, by):
                _add(total, self._tangent(partial(gradient, function, by=given), parameters, direction))
            return total

    def _all(self, which: str, pairs: Pairs, work: Callable[[Callable[[Parameters], Tensor]], Tensor]) -> Tensor:
        """(N, d): what some work makes of each piece of an encoder, in one tensor from the first piece on."""
        whole: Tensor | None = None
        for places, piece in self._pieces(which, pairs):
            found = work(piece)
            if whole is None:
                whole = found.new_empty(len(pairs.texts if which == "text" else pairs.images), found.shape[1])
            whole[places] = found
        return whole if whole is not None else torch.empty(0, 0)

    def _with(self, pairs: Pairs, by: Embeddings) -> Iterator[tuple[Callable[[Parameters], Tensor], Tensor]]:
        """Every piece of the encoders with its part of `by`."""
        for places, function in self._pieces("text", pairs):
            yield function, by.texts[places]
        for places, function in self._pieces("image", pairs):
            yield function, by.images[places]
        yield self._joint, by.joint

    def _pieces(self, which: str, pairs: Pairs) -> Iterator[tuple[slice, Callable[[Parameters], Tensor]]]:
        inputs = pairs.texts if which == "text" else pairs.images
        for start in range(0, len(inputs), self.chunk):
            places = slice(start, min(start + self.chunk, len(inputs)))
            given = _moved(inputs[torch.arange(places.start, places.stop)], self.device)

            def encode(parameters: Parameters, given: Any = given) -> Tensor:
                return F.normalize(functional_call(self._module, parameters, (which, given)), dim=-1)

            yield places, encode

    def _joint(self, parameters: Parameters) -> Tensor:
        return functional_call(self._module, parameters, ("joint", None))

    def _tangent(self, function: Callable[[Parameters], Any], at: Parameters, direction: Parameters) -> Any:
        """The derivative along a direction: in forward mode; where an operation has none, by central differences."""
        if self._forward_mode:
            try:
                return jvp(function, (at,), (direction,))[1]
            except (NotImplementedError, RuntimeError) as error:
                if "forward" not in str(error).lower():
                    raise
                self._forward_mode = False
        return central_difference(function, at, direction)

    @contextmanager
    def _plain(self) -> Iterator[None]:
        """Attention by its definition: the fast kernels have no forward mode and no second derivatives."""
        refuse_noise(self._module)
        with sdpa_kernel(SDPBackend.MATH):
            yield

    def _at_limit(self, name: str, value: Tensor) -> bool:
        return name == "log_scale" and float(value) >= SCALE_LIMIT - 1e-6


class _Pair(nn.Module):
    """Both encoders under one roof, so that parameters have one name each."""

    log_scale: Tensor
    bias: Tensor

    def __init__(self, image: Any, text: Any, log_scale: Tensor | float, bias: Tensor | float) -> None:
        super().__init__()
        self.image = image if isinstance(image, nn.Module) else _Function(image)
        self.text = text if isinstance(text, nn.Module) else _Function(text)
        for name, value in (("log_scale", log_scale), ("bias", bias)):
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:
                self.register_buffer(name, torch.as_tensor(value, dtype=torch.float64).detach())

    def settle(self, dtype: torch.dtype, device: torch.device) -> None:
        """Have a scale and a bias that are no parameters in the type and on the device of those that are."""
        for name, value in list(self.named_buffers(recurse=False)):
            self.register_buffer(name, value.to(dtype).to(device))

    def forward(self, which: str, given: Any) -> Tensor:
        if which == "joint":
            return torch.stack([self.log_scale.exp().reshape(()), self.bias.reshape(()).to(self.log_scale)])
        return self.text(given) if which == "text" else self.image(given)


class _Function(nn.Module):
    def __init__(self, function: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, given: Any) -> Tensor:
        return self.function(given)


def refuse_noise(module: nn.Module) -> None:
    """Raise UserError where batch normalisation or dropout is active."""
    for name, part in module.named_modules():
        if not part.training:
            continue
        rate = next((float(v) for k in ("p", "dropout", "attention_dropout") if _is_rate(v := getattr(part, k, 0))), 0)
        if isinstance(part, nn.modules.batchnorm._BatchNorm) or rate > 0:
            what = (
                "batch normalisation" if isinstance(part, nn.modules.batchnorm._BatchNorm) else f"dropout of {rate:g}"
            )
            raise UserError(
                f"towers: {name or 'the module'} has {what} active; wanted eval mode (model.eval()), where the loss is "
                "a function of the parameters alone."
            )


def refuse_none(given: Any) -> None:
    """Raise UserError where there are no inputs at all."""
    if not len(given):
        raise UserError("influence: no images or no texts; wanted one at least.")


def _stacked(given: Any) -> Any:
    refuse_none(given)
    return torch.stack(list(given)) if isinstance(given, (list, tuple)) else given


def _refuse_infinite(values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        if not value.isfinite().all():
            raise UserError(f"towers: {name} has values that are NaN or infinite; wanted numbers. Was training stable?")


def _refuse_infinite_rows(what: str, found: Tensor, ids: Sequence[int | str]) -> None:
    bad = (~found.isfinite().all(-1)).nonzero().flatten().tolist()
    if bad:
        first = f"of pair {ids[bad[0]]!r}" if ids else f"at position {bad[0]}"
        raise UserError(
            f"towers: the embeddings of {len(bad)} of {len(found)} {what} are NaN or infinite, the first of them "
            f"{first}; wanted numbers. Are the inputs and all weights finite?"
        )


def _is_rate(value: Any) -> bool:
    return isinstance(value, float) and value > 0


def _moved(given: Any, device: torch.device) -> Any:
    if isinstance(given, Tensor):
        return given.to(device)
    return {name: value.to(device) for name, value in given.items()}


def _add(total: Parameters, more: Mapping[str, Tensor]) -> None:
    for name, value in more.items():
        total[name] += value
