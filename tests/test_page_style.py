"""Every reader sees every colour: by light, in the dark and on paper."""

from __future__ import annotations

import re

import pytest

from vdd.page_style import STYLE

PALETTES = [dict(re.findall(r"(--\w+): (#\w{6})", block)) for block in re.findall(r":root \{.*?\}", STYLE, re.S)]


def test_light_dark_and_paper_define_every_colour_and_nothing_else_does():
    used = {*re.findall(r"var\((--\w+)\)", STYLE)} - {"--mark"}
    assert len(PALETTES) == 3
    for palette in PALETTES:
        assert used <= {*palette}
    outside = re.sub(r":root \{.*?\}", "", STYLE, flags=re.S)
    assert not re.search(r"#[0-9a-f]{3}|rgb", outside)


def luminance(color):
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("colors", PALETTES, ids=["light", "dark", "print"])
def test_text_has_a_contrast_of_four_and_a_half_and_marks_have_one_of_three(colors):
    def contrast(a, b):
        low, high = sorted((luminance(colors[a]), luminance(colors[b])))
        return (high + 0.05) / (low + 0.05)

    for paper in ("--paper", "--raised"):
        for text in ("--ink", "--faint", "--up", "--down", "--k1"):
            assert contrast(text, paper) >= 4.5, (text, paper)
    assert all(contrast(mark, "--paper") >= 3 for mark in ("--k0", "--k1", "--k2", "--k3"))
