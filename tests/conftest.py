"""Fixtures: no network, one thread, tiny models; hypothesis fast and the same every time."""

from __future__ import annotations

import gc
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.tiny import tiny_llava

torch.set_num_threads(1)
settings.register_profile(
    "vdd", max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("vdd")


@pytest.fixture(scope="module", autouse=True)
def modules_are_not_garbage():
    """What was imported so far is left out of garbage collections, of which accelerate asks before every run."""
    gc.freeze()


@pytest.fixture(scope="session")
def llava():
    """(model, processor): a random LLaVA in float64 with four image tokens and a vocabulary of words."""
    return tiny_llava()


@pytest.fixture(scope="session")
def toy():
    """(model, processor): the embedded model."""
    from vdd.toy import load

    return load()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the benchmarks' real files."""
    folder = Path(os.environ.get("VDD_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the benchmarks' real files are not at {folder}; set VDD_DATA to their folder")
    return folder
