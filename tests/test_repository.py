"""The files around the package agree with each other."""

import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import companion
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = {name: lines for name, lines in PROJECT["optional-dependencies"].items() if name != "all"}
LINES = [line for lines in [PROJECT["dependencies"], *EXTRAS.values()] for line in lines]
DIRECT = [requirement for requirement in map(Requirement, LINES) if requirement.name != PROJECT["name"]]
PINS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line[:1] not in "#"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]


def tracked_files():
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    return [path for name in listing.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_all_extra_holds_every_other_extra():
    reached, todo = set(), ["all"]
    while todo:
        extra = todo.pop()
        reached.add(extra)
        requirements = map(Requirement, PROJECT["optional-dependencies"][extra])
        todo += [name for needed in requirements if needed.name == PROJECT["name"] for name in needed.extras]
    assert reached == {"all", *EXTRAS}


def test_constraints_are_exact_versions():
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) and pin.url is None and not pin.extras for pin in PINS)
    assert len({canonicalize_name(pin.name) for pin in PINS}) == len(PINS)


def test_constraints_pin_every_direct_dependency_within_its_bounds():
    versions = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in PINS}
    for requirement in DIRECT:
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_only_peft_and_jupyter_book_have_an_upper_bound():
    bounded = {r.name for r in DIRECT if any(s.operator not in (">=", "!=") for s in r.specifier)}
    assert bounded == {"peft", "jupyter-book"}


def test_environment_installs_what_make_installs():
    python = next(entry for entry in ENVIRONMENT if str(entry).startswith("python="))
    assert python.split("=")[1] in [line.strip(">=") for line in PROJECT["requires-python"].split(",")]
    assert "pip" in ENVIRONMENT
    assert ENVIRONMENT[-1] == {"pip": ["-c constraints.txt", "-e .[all]"]}


def test_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert companion.__version__ == PROJECT["version"] == citation["version"]
    assert f"## {companion.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_import_leaves_torch_alone():
    code = "import sys, companion; assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


MATHEMATICS = [
    "marchenko_pastur", "kstar", "reduced_rank", "kstar_tables", "gradient_flow", "scalar_flow", "tanh_law",
    "projected_flow", "flow_numerics", "rank_rules", "tucker", "tucker_flow", "tucker_law", "tucker_recovery",
    "statistics", "study_tables", "runs",
    "book.plotting", "book.settings", "book.glue", "book.audit", "book.audit_figures",
]  # fmt: skip


@pytest.mark.parametrize("module", MATHEMATICS)
def test_mathematics_needs_no_torch(module):
    code = f"import sys, companion.{module}; assert not {{'torch', 'transformers', 'peft'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 80
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / target).exists(), target


def test_no_path_of_one_machine():
    forbidden = re.compile(r"/(?:work|home|Users|root|tmp)/[A-Za-z]|[A-Z]:\\\\Users")
    found = []
    for path in tracked_files():
        if path.suffix in {".parquet", ".safetensors", ".png"} or "mathjax" in path.parts or path == Path(__file__):
            continue
        text = path.read_text("utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in forbidden.finditer(text)]
    assert found == []


def test_every_commented_target_of_make_is_listed():
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("help", "book", "site", "test", "notebooks", "import", "bench", "serve", "clean"):
        assert re.search(rf"^  make {target} ", listed, re.MULTILINE), target


def test_help_installs_nothing(tmp_path):
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text("utf-8"), "utf-8")
    start = time.monotonic()
    subprocess.run(["make"], cwd=tmp_path, capture_output=True, check=True)
    assert time.monotonic() - start < 5
    assert [path.name for path in tmp_path.iterdir()] == ["Makefile"]


def test_package_lists_in_pyproject_are_complete():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "companion").rglob("__init__.py")}
    assert set(listed) == found
