"""The house stays as it was drawn: imports go one way, the front hall is light, and what is used is declared."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from neuromf.workflow import code_files

ROOT = Path(__file__).parents[1]
LAYERS = [  # a room may import those of its own layer and of the layers after it
    {"workflow_scripts"},
    {
        "training",
        "vae_training",
        "fitting",
        "diagnostics",
        "bench",
        "bench_store",
        "bench_vae",
        "generate",
        "timing",
        "lora",
        "joint",
    }
    | {"lesions", "masks", "fcd", "pair_latents", "segmenter", "metrics", "gates", "criteria", "figures", "tables"}
    | {"bench_history", "overhead", "ablations", "report", "export", "card", "onnx", "paper", "joint_samples", "scale"},
    {"vae", "latents", "store", "augmentation", "phantom", "sulci", "rectified"},
    {
        "nets",
        "gaussian",
        "mixture",
        "layers",
        "flow",
        "volumes",
        "scans",
        "foreground",
        "tools",
        "cohort",
        "sources",
        "torus",
    }
    | {"fetch", "archives", "ixi", "seeds", "files", "licences", "parallel"},
]
ALONE = {"flow", "seeds", "cohort", "sources", "fetch", "metrics", "gates", "config", "parallel"}  # no other room, but
SHARED = {"parallel"}  # this one
UPWARD = {("vae", "metrics")}  # SSIM of a round trip; harmless, since metrics import no other room
SOURCES = sorted([*ROOT.glob("neuromf/**/*.py"), *ROOT.glob("workflow_scripts/*.py")])
WORKFLOW = [ROOT / "Snakefile", *sorted(ROOT.glob("rules/*.smk"))]
DISTRIBUTIONS = {
    "PIL": "pillow",
    "mpl_toolkits": "matplotlib",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = ROOT / "envs" / "requirements.lock"


def room(module):
    """The room of a module: its file in neuromf, or its folder there; all scripts are one."""
    parts = module.split(".")
    return "workflow_scripts" if parts[0] == "workflow_scripts" else parts[1] if len(parts) > 1 else "neuromf"


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


def rooms_of(path):
    """Other rooms of this repository that a file imports."""
    ours = {name for name in imported(path) if name.split(".")[0] in ("neuromf", "workflow_scripts")}
    return {room(name) for name in ours} - {"neuromf", room(module(path))}


def layer(name):
    return next((k for k, rooms in enumerate(LAYERS) if name in rooms), None)


def run(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def graph():
    """Each room and the rooms it imports."""
    found = {}
    for path in SOURCES:
        found.setdefault(room(module(path)), set()).update(rooms_of(path))
    return found


# --- imports go one way ------------------------------------------------------------------------------


def test_what_a_file_imports_is_seen_here():
    assert {"workflow_scripts.gate", "neuromf.gates"} <= {module(path) for path in SOURCES}
    assert rooms_of(ROOT / "neuromf" / "latents.py") == {"vae", "volumes", "augmentation", "files", "parallel"}
    assert rooms_of(ROOT / "workflow_scripts" / "_cli.py") == {"gates"}  # inside a function


def test_every_room_has_a_place_in_the_house(graph):
    assert graph.keys() - {"neuromf", "config", "runs", "workflow"} <= set.union(*LAYERS)
    assert not graph["neuromf"]


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_imports_go_down_the_house(path):
    here = room(module(path))
    if layer(here) is not None:
        for there in rooms_of(path):
            assert (here, there) in UPWARD or (layer(there) or 0) >= layer(here), f"{here} imports {there}"


def test_no_room_is_imported_in_a_circle(graph):
    TopologicalSorter(graph).prepare()


def test_the_lowest_rooms_and_the_judges_import_no_other_room(graph):
    assert {name: graph[name] - SHARED for name in ALONE} == dict.fromkeys(ALONE, set())
    assert graph["workflow"] == {"sources"}  # which list the scans before any job


def test_figures_import_no_room_but_files_and_no_torch(graph):
    assert graph["figures"] <= {"files"}  # which imports none
    for path in ROOT.glob("neuromf/figures/*.py"):
        assert not {"torch", "monai"} & {name.split(".")[0] for name in imported(path)}


def test_the_library_knows_neither_scripts_nor_snakemake():
    for path in ROOT.glob("neuromf/**/*.py"):
        assert not {"workflow_scripts", "snakemake"} & {name.split(".")[0] for name in imported(path)}, path.name


def test_only_the_workflow_and_tests_read_the_config():
    for path in SOURCES:
        assert "config" not in rooms_of(path) or path.name == "runs.py", path.name
    readers = {path.name for path in WORKFLOW if "neuromf.config" in path.read_text()}
    assert readers == {"Snakefile"}


def test_scripts_import_no_other_script():
    for path in ROOT.glob("workflow_scripts/*.py"):
        others = {name for name in imported(path) if name.startswith("workflow_scripts.")}
        assert all(name.startswith("workflow_scripts._cli") for name in others), path.name


def test_imports_are_written_in_full_and_made_where_all_can_see_them():
    """What is imported by a computed name, or relatively, would be missing from the digest of a rule's code."""
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
        for name, body in re.findall(r"^(?:rule|checkpoint) (\w+):\n(.*?)(?=^\S|\Z)", path.read_text(), re.M | re.S):
            rules[name] = re.findall(r"python -m workflow_scripts\.(\w+)", body)
    scripts = {path.stem for path in ROOT.glob("workflow_scripts/*.py")} - {"__init__", "_cli"}
    called = {name: calls for name, calls in rules.items() if calls}
    assert called == {name: [name] for name in called}
    assert called.keys() == scripts


# --- the front hall is light -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        "neuromf, neuromf.workflow, neuromf.config",
        "neuromf.gates, neuromf.cohort",
        "workflow_scripts.cohort, workflow_scripts.qc, workflow_scripts.gate, workflow_scripts.verify",
        "neuromf.figures.fig_1, neuromf.figures.fig_2, neuromf.figures.fig_3",
    ],
)
def test_what_is_needed_at_once_loads_neither_torch_nor_monai(names):
    heavy = run(f"import sys, {names}; print(*({{'torch', 'monai', 'pytorch_lightning'}} & sys.modules.keys()))")
    assert heavy.strip() == ""


def test_in_the_library_monai_comes_without_transformers_alone():
    there = "print(*(name in sys.modules for name in ('transformers', 'sklearn', 'matplotlib')))"
    assert run(f"import sys, neuromf.nets; {there}").split() == ["False", "True", "True"]


def test_in_a_job_monai_comes_without_what_no_job_asks_of_it_and_others_with_it():
    there = "print(*(name in sys.modules for name in ('transformers', 'sklearn', 'matplotlib', 'scipy.signal')))"
    asked = "import peft, sklearn.mixture, matplotlib.pyplot, scipy.signal"
    found = run(f"import sys, workflow_scripts.sample; {there}; {asked}; {there}")
    assert found.split() == ["False"] * 4 + ["True"] * 4


def test_torchvision_which_wants_pil_is_imported_whole_or_not_at_all(tmp_path):
    (tmp_path / "torchvision.py").write_text("print('begun'); import PIL; print('whole')")
    found = run(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import workflow_scripts.sample, torchvision")
    assert found.split() == ["begun", "whole"]


@pytest.mark.parametrize(("start", "before", "frozen"), [("-m", "False", True), ("pytest", "True", False)])
def test_a_job_collects_garbage_from_its_arguments_on_and_leaves_out_what_it_imported(start, before, frozen):
    imports = f"import gc, sys; sys.argv[0] = '{start}'; import workflow_scripts; print(gc.isenabled())"
    asks = "from workflow_scripts._cli import arguments; arguments('', [])"
    found = run(f"{imports}; {asks}; print(gc.isenabled(), gc.get_freeze_count() > 1000)").split()
    assert found == [before, "True", str(frozen)]


def test_what_the_workflow_and_the_gates_need_is_standard_library():
    for path in code_files("neuromf.workflow", "neuromf.gates"):
        outside = {name.split(".")[0] for name in imported(path)} - sys.stdlib_module_names
        assert outside <= {"neuromf"}, path.name


# --- what is used is declared ------------------------------------------------------------------------


def declared(*extras):
    project = PROJECT["project"]
    lines = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def test_every_import_is_a_declared_dependency():
    used = {name.split(".")[0] for path in SOURCES for name in imported(path)}
    used -= {*sys.stdlib_module_names, "neuromf", "workflow_scripts"}
    assert {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in used} <= declared("n4", "onnx").keys()


def test_every_package_and_every_packaged_file_is_named_to_setuptools():
    found = {module(path.parent / "__init__.py") for path in SOURCES}
    tool = PROJECT["tool"]["setuptools"]
    assert found == set(tool["packages"])
    for path in ROOT.glob("neuromf/weights/*"):
        patterns = tool["package-data"]["neuromf"]
        assert any(path.relative_to(ROOT / "neuromf").match(pattern) for pattern in patterns), path.name


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
