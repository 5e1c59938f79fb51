"""Tiny random models of every family, with their real processors: what the tests of the families run on."""

import pytest

from tests.zoo import (
    blip_kin,
    encoders,
    gemma_kin,
    idefics_kin,
    janus,
    llava_kin,
    mllama,
    moe_kin,
    more_kin,
    qwen_kin,
    timm_kin,
    token_kin,
)
from tests.zoo.member import Member, picture

MEMBERS: list[Member] = [
    member
    for kin in (
        llava_kin,
        qwen_kin,
        janus,
        idefics_kin,
        gemma_kin,
        mllama,
        blip_kin,
        encoders,
        token_kin,
        moe_kin,
        more_kin,
        timm_kin,
    )
    for member in kin.MEMBERS
]

#: One of each kind: tiles, patches of all images in one tensor, linear attention, masks over the prompt, queries, an
#: encoder.
KINDS = (
    "LLaVA-NeXT",
    "Idefics3",
    "Qwen2.5-VL",
    "Qwen3.5",
    "Gemma3",
    "PaliGemma",
    "Mllama",
    "Kosmos-2",
    "InstructBLIP (Vicuna)",
    "Florence-2",
)

#: Every family as a parameter; all but one of each kind are slow.
EVERY = [
    pytest.param(member, id=member.name, marks=[] if member.name in KINDS else pytest.mark.slow) for member in MEMBERS
]

__all__ = ["EVERY", "KINDS", "MEMBERS", "Member", "picture"]
