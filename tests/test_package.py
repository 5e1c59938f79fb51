"""The package as it is installed: names, version, what an import costs, what a wheel must carry."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import pytest
from setuptools import find_packages

import vdd

ROOT = Path(vdd.__file__).parents[1]
HEAVY = ("torch", "transformers", "numpy", "PIL", "safetensors", "matplotlib")


def loaded_after(code: str) -> set[str]:
    """Which heavy modules a fresh interpreter has loaded after `code`."""
    script = f"{code}\nimport sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    return set(
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    )


def test_every_public_name_resolves_to_what_lives_in_its_home():
    """Also where a submodule of that name was imported before, which takes the name in the package."""
    for name in vdd.__all__:
        found = getattr(vdd, name)
        assert found is not None
        home = vdd._HOMES.get(name)
        assert home is None or found is getattr(importlib.import_module(home), name)
    assert set(vdd._HOMES) | {"__version__", "influence", "integrations", "preference", "toy"} == set(vdd.__all__)


def test_the_embedded_model_is_reached_from_the_package_alone():
    script = "import vdd; print(type(vdd.toy.load()[0]).__name__)"
    ran = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "LlavaForConditionalGeneration"


def test_dir_lists_the_public_names_and_a_star_import_brings_them():
    assert dir(vdd) == sorted(vdd.__all__)
    space: dict[str, object] = {}
    exec("from vdd import *", space)
    assert set(vdd.__all__) <= set(space)


def test_a_name_that_is_not_there_is_an_attribute_error_that_lists_those_that_are():
    with pytest.raises(AttributeError, match=r"no attribute 'nonsense'; it has PRESETS, .*VDDLogitsProcessor"):
        vdd.nonsense  # noqa: B018
    with pytest.raises(ImportError):
        exec("from vdd import nonsense")
    assert not hasattr(vdd, "__path_of_something_else__")


def test_submodules_are_reached_as_usual():
    assert importlib.import_module("vdd.toy").load is importlib.import_module("vdd.toy.model").load
    assert dir(importlib.import_module("vdd.toy")) == sorted(importlib.import_module("vdd.toy").__all__)


def test_importing_vdd_loads_neither_torch_nor_numpy():
    assert loaded_after("import vdd") == set()
    assert (
        loaded_after("import vdd; vdd.DebiasConfig; vdd.SamplingConfig; vdd.Answer; vdd.Question; vdd.Score") == set()
    )
    assert loaded_after("import vdd.toy") == set()
    assert loaded_after("import vdd.cli") == set()
    assert "torch" not in loaded_after("import vdd.scoring.pope, vdd.data")


def test_the_version_agrees_with_the_installed_distribution():
    assert vdd.__version__ == metadata.version("visual-debias-decoding")
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", vdd.__version__)


def test_the_command_is_declared_and_its_entry_point_loads():
    (script,) = [e for e in metadata.entry_points(group="console_scripts") if e.name == "vdd"]
    assert script.value == "vdd.cli:main"
    assert callable(script.load())


@pytest.mark.parametrize(
    "name",
    [
        "py.typed",
        *(
            f"toy/weights/{model}/{file}"
            for model in ("llava", "clip")
            for file in ("model.safetensors", "config.json")
        ),
        "toy/weights/llava/chat_template.jinja",
        "toy/weights/llava/tokenizer.json",
        "toy/weights/llava/preprocessor_config.json",
    ],
)
def test_files_that_are_no_code_lie_in_the_package(name):
    assert resources.files("vdd").joinpath(name).is_file()


def test_the_shipped_weights_are_as_small_as_promised():
    folder = Path(str(resources.files("vdd").joinpath("toy", "weights")))
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 6 * 2**20 * 1.5
    assert (folder / "llava" / "model.safetensors").stat().st_size <= 6 * 2**20


def test_a_wheel_holds_every_module_and_nothing_but_vdd():
    found = set(find_packages(str(ROOT), include=["vdd*"]))
    wanted = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "vdd").rglob("*.py")}
    wanted -= {"vdd.integrations.custom_generate.custom_generate"}  # a folder for the Hub, no package
    assert found == wanted
    assert {name.split(".")[0] for name in found} == {"vdd"}


def test_the_wheels_data_patterns_take_in_every_file_that_is_no_code():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    patterns = re.findall(r'"([^"]+)"', re.search(r"^vdd = (\[.*\])$", text, re.MULTILINE).group(1))
    package = ROOT / "vdd"
    covered = {path for pattern in patterns for path in package.glob(pattern) if path.is_file()}
    data = {
        path
        for path in package.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts
    }
    assert data <= covered, sorted(map(str, data - covered))


def test_every_module_says_what_it_knows_and_compiles_for_python_3_10():
    import ast

    for path in (ROOT / "vdd").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 10))
        assert ast.get_docstring(tree) or not tree.body, path
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, f"{path} is longer than 400 lines"
