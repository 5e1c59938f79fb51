"""Every preset inside the processor against its paper's printed formula, step by step, with the papers' constants."""

from __future__ import annotations

import math

import pytest
import torch

from tests.oracles import noise as noise_oracle
from tests.oracles import presets as papers
from tests.oracles.recompute import blind_logits, encode, next_logits, seconds
from vdd.pixels import noise
from vdd.processor import PRESETS, VDDLogitsProcessor

#: preset → (the paper's formula, the reference whose prompt is its second input)
PAPERS = {
    "vdd": (papers.vdd, "none"),
    "vcd": (papers.vcd, "noise"),
    "icd": (papers.icd, "instruction"),
    "m3id": (papers.m3id, "none"),
    "nolan": (papers.nolan, "none"),
    "cutoff-only": (papers.cutoff_only, "none"),
}
QUESTIONS = ["is there a cat in the image ?", "is it red ?"]
TOKENS = [[9, 30, 24, 21, 13, 8], [17, 24, 24, 31, 5, 10]]


def test_every_preset_has_a_paper_here():
    assert set(PAPERS) == set(PRESETS)


@pytest.mark.parametrize("preset", PAPERS)
@pytest.mark.parametrize("sharpness", [0.15, 1.0])
def test_a_preset_is_its_papers_formula_at_every_step(llava, preset, sharpness):
    model, processor = llava
    formula, reference = PAPERS[preset]
    inputs = encode(processor, QUESTIONS)
    instruction = PRESETS["icd"].instruction
    rows = seconds(processor, QUESTIONS, reference, inputs=inputs, instruction=instruction)
    shown = seconds(processor, QUESTIONS, "seen", inputs=inputs)
    plugin = VDDLogitsProcessor(model, processor, inputs=inputs, preset=preset)
    for step in range(1, len(TOKENS[0]) + 1):
        tokens = torch.tensor(TOKENS)[:, : step - 1]
        pairs = zip(shown, tokens.tolist(), strict=True)
        seen = torch.stack([next_logits(model, row[0], sofar) * sharpness for row, sofar in pairs])
        got = plugin(torch.cat([inputs["input_ids"], tokens], dim=1), seen)
        for number, row in enumerate(rows):
            blind = blind_logits(model, row, tokens[number].tolist())
            want = torch.tensor(formula(seen[number].tolist(), blind.tolist(), step), dtype=torch.float64)
            torch.testing.assert_close(got[number], want, rtol=1e-9, atol=1e-9)


def test_the_presets_hold_the_papers_constants():
    vcd, icd, m3id, nolan = (PRESETS[name] for name in ("vcd", "icd", "m3id", "nolan"))
    assert (vcd.reference, vcd.noise_step, vcd.alpha, vcd.beta) == ("noise", 500, 1.0, 0.1)
    assert (icd.reference, icd.alpha, icd.beta) == ("instruction", 1.0, 0.1)
    assert (m3id.reference, m3id.decay, m3id.confidence, m3id.beta) == ("none", 0.02, 0.3, 0.0)
    assert (nolan.reference, nolan.alpha, nolan.beta) == ("none", 0.8, 0.0)
    assert (PRESETS["vdd"].reference, PRESETS["vdd"].alpha, PRESETS["vdd"].beta) == ("none", 1.0, 0.1)
    assert PRESETS["cutoff-only"].is_cutoff_only


# ---- VCD's noise


@pytest.mark.parametrize(("step", "kept"), [(0, 0.9999777), (500, 0.7447985), (999, 0.0812492)])
def test_the_diffusion_schedule_counts_from_0_and_has_vcds_values(step, kept):
    assert noise_oracle.kept(step) == pytest.approx(kept, abs=5e-8)
    ones = torch.ones(1, 3, 2, 2, dtype=torch.float64)
    gap = noise(2 * ones, step, seed=0) - noise(ones, step, seed=0)
    torch.testing.assert_close(gap, ones * math.sqrt(noise_oracle.kept(step)), rtol=1e-9, atol=0)


@pytest.mark.parametrize("step", [0, 1, 500, 999])
def test_noise_is_the_diffused_pixels_of_the_printed_formula(step):
    pixels = torch.linspace(-2, 2, 2 * 3 * 4 * 4, dtype=torch.float64).reshape(2, 3, 4, 4)
    epsilon = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64).flatten().tolist()
    got = noise(pixels, step, seed=7)
    for image in range(2):
        want = noise_oracle.noised(pixels[image].flatten().tolist(), epsilon, step)
        torch.testing.assert_close(got[image].flatten(), torch.tensor(want, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_noise_has_the_share_of_variance_that_the_schedule_says():
    got = noise(torch.zeros(1, 3, 200, 200), 500, seed=1)
    assert float(got.mean()) == pytest.approx(0, abs=0.01)
    assert float(got.var()) == pytest.approx(1 - 0.7447985, rel=0.02)


# ---- M3ID's two regimes


def test_m3id_subtracts_nothing_where_the_model_is_sure_and_more_as_the_text_grows(llava):
    model, processor = llava
    inputs = encode(processor, QUESTIONS[:1])
    plugin = VDDLogitsProcessor(model, processor, preset="m3id")
    vocab = model.config.text_config.vocab_size
    sure = torch.zeros(1, vocab, dtype=torch.float64)
    sure[0, 3] = 9.0
    flat = torch.zeros(1, vocab, dtype=torch.float64)
    torch.testing.assert_close(plugin(inputs["input_ids"], sure), sure.log_softmax(-1))
    first = plugin(inputs["input_ids"], flat)
    tokens = torch.tensor([[9] * 80])
    ids = torch.cat([inputs["input_ids"], tokens], dim=1)
    for length in range(1, 81):
        last = plugin(ids[:, : inputs["input_ids"].shape[1] + length], flat)
    assert float(last.max() - last.min()) > 10 * float(first.max() - first.min()) > 0
