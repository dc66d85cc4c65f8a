"""Imports, scripts and declared dependencies. import-linter checks the layers of the packages (pyproject.toml)."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("neuromf/**/*.py"), *ROOT.glob("workflow_scripts/*.py")])
WORKFLOW = [ROOT / "Snakefile", *sorted(ROOT.glob("rules/*.smk"))]
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cc3d": "connected-components-3d",
    "mpl_toolkits": "matplotlib",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "umap": "umap-learn",
    "yaml": "pyyaml",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = ROOT / "envs" / "requirements.lock"


def module(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path):
    """Full names of what a file imports, at its top or inside a function, those of names in a module included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def run(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


# --- imports -----------------------------------------------------------------------------------------


def test_imports_are_absolute_and_static():
    """Relative or computed imports would be missing from the code digest of a rule."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path.name}:{node.lineno}"
            assert not (isinstance(node, ast.Name) and node.id == "__import__"), f"{path.name}:{node.lineno}"
        dynamic = {name for name in imported(path) if name.split(".")[0] in ("importlib", "runpy", "pkgutil")}
        harmless = {"importlib", "importlib.metadata", "importlib.abc", "importlib.abc.MetaPathFinder"}
        assert dynamic <= harmless, path.name
        assert "import importlib" not in path.read_text(), path.name


# --- a script per rule -------------------------------------------------------------------------------


def test_every_script_is_called_by_the_rule_of_its_name_and_every_rule_has_one():
    rules = {}
    for path in WORKFLOW:
        rule = r"^(?:rule|use rule \w+ as) (\w+)(?: with)?:\n(.*?)(?=^\S|\Z)"
        for name, body in re.findall(rule, path.read_text(), re.M | re.S):
            script = re.search(r'^        script="(\w+)"', body, re.M)
            rules[name] = {script[1]} if script else set(re.findall(r"python -m workflow_scripts\.(\w+)", body))
    called = {name: scripts for name, scripts in rules.items() if scripts}
    assert called == {name: {name} for name in called}
    assert called.keys() == {path.stem for path in ROOT.glob("workflow_scripts/[a-z]*.py")}


# --- light imports -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        "neuromf, neuromf.workflow.listing, neuromf.workflow.runs, neuromf.workflow.stale, neuromf.config.study",
        "neuromf.workflow.gates, neuromf.data.participants",
        "workflow_scripts.cohort, workflow_scripts.qc, workflow_scripts.gate, workflow_scripts.verify",
        "neuromf.figures.overview, neuromf.figures.torus, neuromf.figures.samples",
    ],
)
def test_planning_and_light_scripts_import_neither_torch_nor_monai(names):
    heavy = run(f"import sys, {names}; print(*({{'torch', 'monai', 'pytorch_lightning'}} & sys.modules.keys()))")
    assert heavy.strip() == ""


def test_importing_the_library_changes_nothing_for_its_user():
    found = run(
        "import sys; before = [*sys.meta_path]; import neuromf.nn.unet; print(sys.meta_path[: len(before)] == before); "
        "print('transformers' in sys.modules)"
    )
    assert found.split() == ["True", "True"]


def test_in_a_job_monai_does_not_import_hidden_packages_and_others_do():
    there = "print(*(name in sys.modules for name in ('transformers', 'sklearn', 'matplotlib', 'scipy.signal')))"
    asked = "import peft, sklearn.mixture, matplotlib.pyplot, scipy.signal"
    found = run(f"import sys, workflow_scripts.sample; {there}; {asked}; {there}")
    assert found.split() == ["False"] * 4 + ["True"] * 4


def test_torchvision_is_imported_completely_or_not_at_all(tmp_path):
    (tmp_path / "torchvision.py").write_text("print('begun'); import PIL; print('whole')")
    found = run(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import workflow_scripts.sample, torchvision")
    assert found.split() == ["begun", "whole"]


@pytest.mark.parametrize(("start", "before", "frozen"), [("-m", "False", True), ("pytest", "True", False)])
def test_a_job_collects_garbage_once_its_arguments_are_parsed_without_its_imports(start, before, frozen):
    imports = f"import gc, sys; sys.argv[0] = '{start}'; import workflow_scripts; print(gc.isenabled())"
    asks = "from workflow_scripts._cli import arguments; arguments('', [])"
    found = run(f"{imports}; {asks}; print(gc.isenabled(), gc.get_freeze_count() > 1000)").split()
    assert found == [before, "True", str(frozen)]


# --- what is used is declared ------------------------------------------------------------------------


def declared(*extras):
    project = PROJECT["project"]
    lines = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def test_every_import_is_a_declared_dependency():
    used = {name.split(".")[0] for path in SOURCES for name in imported(path)}
    used -= {*sys.stdlib_module_names, "neuromf", "workflow_scripts"}
    names = {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in used}
    assert names <= declared("atlas", "atlas-pages", "growth", "n4", "onnx", "strip", "wandb").keys()


def test_every_init_file_is_one_docstring():
    for path in ROOT.glob("neuromf/**/__init__.py"):
        (only,) = ast.parse(path.read_text()).body
        assert isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant), path


def test_every_packaged_file_is_named_to_setuptools():
    tool = PROJECT["tool"]["setuptools"]
    files = [path for path in ROOT.glob("neuromf/**/*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert len(files) > 40
    for path in files:
        patterns = [(name.split("."), pattern) for name, found in tool["package-data"].items() for pattern in found]
        assert any(path.relative_to(ROOT).match("/".join([*name, pattern])) for name, pattern in patterns), path


@pytest.mark.skipif(not LOCK.is_file(), reason="envs/requirements.lock is not there")
def test_the_environment_pins_what_the_project_asks_for():
    lines = [line.split("#")[0].strip() for line in LOCK.read_text().splitlines()]
    pins = [Requirement(line) for line in lines if line and not line.startswith("-")]
    pinned = {canonicalize_name(pin.name): pin for pin in pins}
    assert len(pinned) == len(pins)
    for pin in pins:
        assert [s.operator for s in pin.specifier] == ["=="], f"{pin} is not pinned"
    for name, wanted in declared().items():
        assert name in pinned, f"{name} is not in {LOCK.name}"
        (version,) = (s.version for s in pinned[name].specifier)
        assert wanted.specifier.contains(version), f"{wanted} is asked for, {LOCK.name} has {version}"


@pytest.mark.skipif(not (ROOT / "envs" / "neuromf.yaml").is_file(), reason="envs/neuromf.yaml is not there")
def test_every_rule_runs_in_the_environment_of_the_lock_and_of_a_python_the_project_takes():
    environment = (ROOT / "envs" / "neuromf.yaml").read_text()
    assert f"--requirement {LOCK.name}" in environment
    (version,) = re.findall(r"^  - python=(\S+)$", environment, re.M)
    assert version in Requirement(f"python{PROJECT['project']['requires-python']}").specifier
    used = {name for path in WORKFLOW for name in re.findall(r'conda:\s+"([^"]+)"', path.read_text())}
    assert used == {"../envs/neuromf.yaml"}
