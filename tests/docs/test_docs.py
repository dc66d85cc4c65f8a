"""Documentation names things that exist: links, modules, tests, rules, config keys, criteria and their bounds."""

import ast
import re
from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config

from neuromf.config.study import Config, read_config, sections_of
from tools import check_environment, draw_dag

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/*.md"))
README = (ROOT / "README.md").read_text()
CRITERIA = (ROOT / "docs/criteria.md").read_text()
N_CRITERIA = {0: 7, 1: 7, 2: 8, 3: 10, 4: 8, 5: 10, 6: 5, 7: 7, 8: 1}


def cells(text, first):
    """Rows of the tables in a page whose first cell matches a pattern."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"
    ]
    return [row for row in rows if re.fullmatch(first, row[0])]


def code(text):
    return re.findall(r"`([^`\n]+)`", text)


# links and names


def anchors(page):
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_in_the_repository_exist(page):
    if page.name == "CHANGELOG.md":
        pytest.skip("history names files that are gone")
    folders = "neuromf|tests|studies|profiles|tools|envs|rules|workflow_scripts"
    for path in code(page.read_text()):
        if re.fullmatch(rf"(?:{folders})/[\w./-]*", path):
            assert (ROOT / path).exists(), path


def defined(tree):
    """Names that a module, or a class in it, defines."""
    names = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                names[getattr(target, "id", "")] = node
    return names


def exists(dotted):
    parts = dotted.split(".")
    for n in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:n])
        if n == len(parts) and path.is_dir():
            return True
        if path.with_suffix(".py").exists():
            node = ast.parse(path.with_suffix(".py").read_text())
            for name in parts[n:]:
                if name not in (names := defined(node)):
                    return False
                node = names[name]
            return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_and_functions_exist(page):
    for name in code(page.read_text()):
        if re.fullmatch(r"(?:neuromf|workflow_scripts)(?:\.\w+)+", name):
            assert exists(name), name


# criteria


def test_no_criterion_is_missing():
    documented = {row[0] for row in cells(CRITERIA, r"(?:P\d|G)-T\w+")}
    assert {f"P{phase}-T{k}" for phase, n in N_CRITERIA.items() for k in range(1, n + 1)} <= documented


def test_bounds_and_kinds_are_those_of_criteria_yaml():
    criteria = yaml.safe_load((ROOT / "neuromf/config/criteria.yaml").read_text())
    rows = {row[0]: row for row in cells(CRITERIA, r"(?:P\d|G)-T\w+")}
    gates = {name for name, row in rows.items() if re.match(r"[<>]=", row[4])}
    assert gates == {name for name in criteria if name[0] in "PG"}  # S{stage}: docs/atlas_criteria.md
    for name in gates:
        one, (_, kind, _, _, bound, _) = criteria[name], rows[name]
        assert kind == f"gate, {one['kind'][0]}", name
        side, value = re.match(r"([<>]=) ([\d.]+)", bound).groups()
        assert (side, float(value)) == ({"above": ">=", "below": "<="}[one["side"]], one["bound"]), name


@pytest.mark.parametrize("row", cells(CRITERIA, r"(?:P\d|G)-T\w+"), ids=lambda row: row[0])
def test_every_criterion_is_explained_and_its_tests_exist(row):
    assert len(row) == 6 and all(row[k] for k in (1, 2, 3, 5))
    if row[1].startswith("test"):
        name = row[0].replace("-", "_")
        for file in re.findall(r"tests/[\w/]+\.py", row[3]):
            assert re.search(rf"def test_\w*{name}_", (ROOT / file).read_text()), (row[0], file)


# faults


def test_every_fault_has_a_test():
    rows = cells((ROOT / "docs/faults.md").read_text(), r"(?!fault$|-+$).+")
    assert len(rows) >= 25
    for row in rows:
        file, name = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", row[3]).groups()
        assert f"def {name}(" in (ROOT / file).read_text(), row[3]


# README


def keys(section):
    for name, field in section.model_fields.items():
        yield name
        for inner in sections_of(field.annotation):
            yield from (f"{name}.{key}" for key in keys(inner))


def test_the_study_file_for_own_scans_is_valid():
    (block,) = re.findall(r"```yaml\n(.*?)\n *```", README, re.S)
    assert len(block.splitlines()) == 16
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    update_config(config, yaml.safe_load(block))
    assert read_config(config).cohort.folder.root == "/data/my_scans"


def test_config_keys_exist():
    section = README.split("## Configuration")[1].split("## Cluster")[0]
    rows = cells(section, r"`.*")
    assert len(rows) == 15
    assert {key for row in rows for key in code(row[0])} <= set(keys(Config))


def test_requirements_are_those_of_make_check():
    needed = f"{check_environment.MIN_MEMORY_GB:g} GB of memory and {check_environment.MIN_DISK_GB:g} GB of disk"
    assert needed in README


def test_stages_are_rules():
    rules = set(re.findall(r"^(?:use )?rule (\w+)", "".join(p.read_text() for p in ROOT.glob("rules/*.smk")), re.M))
    rules |= set(re.findall(r"^use rule \w+ as (\w+)", "".join(p.read_text() for p in ROOT.glob("rules/*.smk")), re.M))
    section = README.split("## The workflow")[1].split("Each of the nine")[0]
    named = {name for row in cells(section, r"(?!stage$|-+$).+") for name in code(row[1])} - {"table_2", "table_3"}
    assert named - rules == set()
    assert {name for name in draw_dag.STAGES if "," not in name} - rules == set()


def test_the_results_table_has_one_place():
    assert len(re.findall(r"<!-- results -->\n.+\n<!-- /results -->", README, re.S)) == 1


def test_the_picture_of_the_workflow_shows_every_stage():
    picture = (ROOT / "docs/dag.svg").read_bytes()
    assert len(picture) < 60_000
    text = re.sub(r"<[^>]+>|\s", "", picture.decode())
    assert [name for name in draw_dag.STAGES if name.replace(" ", "") not in text] == []
