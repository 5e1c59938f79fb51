"""From a model as users have it to its influence: a name, a CLIP or SigLIP, or a pair of encoders; images and captions.

Knows: towers, influence. Does not know: files of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vdd._check import UserError
from vdd.influence.ecif import ECIF
from vdd.influence.encoders import Pairs, Towers
from vdd.influence.refit import at_minimum
from vdd.influence.towers import EMBEDDED, HEADS, HubTowers, open_towers


def influence_of(
    model: Any = EMBEDDED,
    data: Pairs | Sequence[tuple[Any, Any]] = (),
    *,
    processor: Any = None,
    params: str = HEADS,
    ids: Sequence[int | str] | None = None,
    refit: bool = False,
    **options: Any,
) -> ECIF:
    """The influence of training pairs on a model.

    Args:
        model: "toy", the embedded CLIP; a name on the Hub or a folder; a `CLIPModel` or `SiglipModel`, with its
            `processor`; or `Towers`.
        data: (image, caption) of each pair, images as `vdd.Pipeline` takes them; of `Towers`, inputs as their encoders
            take them, or `Pairs`.
        processor: of a model that is given itself.
        params: "heads", "lora", "all", or a regular expression; of `Towers` these have their own.
        ids: of the pairs; None numbers them.
        refit: whether the parameters are trained to the minimum first; see `at_minimum`.
        **options: of `ECIF`.

    Raises:
        ValueError: on a model that cannot be opened, or without its processor, and on whatever `ECIF` refuses.
    """
    if isinstance(model, str):
        model = open_towers(model, params=params)
    elif not isinstance(model, Towers):
        if processor is None:
            raise UserError(
                f"influence: a {type(model).__name__} came without its processor; wanted it as processor=…, or a pair "
                "of encoders as vdd.influence.Towers."
            )
        model = HubTowers(model, processor, params=params)
    if isinstance(data, Pairs):
        pairs = data
    else:
        pairs = model.pairs([image for image, _ in data], [caption for _, caption in data], ids)
    return (at_minimum if refit else ECIF)(model, pairs, **options)
