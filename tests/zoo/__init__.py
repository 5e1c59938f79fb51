"""Tiny random models of every family, with their real processors: what the tests of the families run on."""

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

__all__ = ["MEMBERS", "Member", "picture"]
