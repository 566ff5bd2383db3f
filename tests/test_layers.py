"""Who may import whom, read from the syntax trees; and what loads without torch."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import hlrs

PACKAGE = Path(hlrs.__file__).parent
FILES = {
    ".".join(["hlrs", *path.relative_to(PACKAGE).with_suffix("").parts]): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
PACKAGES = {name.removesuffix(".__init__"): path for name, path in FILES.items() if path.stem == "__init__"}
MODULES = {name: path for name, path in FILES.items() if path.stem != "__init__"}
LOWEST = ("hlrs.data", "hlrs.longtail", "hlrs.nas")
UPPER = ("hlrs.cli", "hlrs.__main__")  # they may import stages
LIGHT = [  # loads without torch: the Snakefile, a login node, `hlrs --help`
    "hlrs.errors",
    "hlrs.config",
    "hlrs.plan",
    "hlrs.cli",
    "hlrs.artifacts",
    "hlrs.code",
    "hlrs.environment",
    "hlrs.fingerprint",
    "hlrs.provenance",
    "hlrs.preflight",
    "hlrs.devices",
    "hlrs.lease",
    "hlrs.running",
    "hlrs.experiments",
    "hlrs.slurm",
    "hlrs.patience",
    "hlrs.profile",
    "hlrs.startup",
    "hlrs.workflow",
    "hlrs.reasons",
    "hlrs.calibration",
    "hlrs.forecast",
    "hlrs.outlook",
    "hlrs.why",
    "hlrs.lineage",
    "hlrs.pedigree",
    "hlrs.audit",
    "hlrs.pace",
    "hlrs.container",
    "hlrs.doctor",
    "hlrs.report.charts",
    "hlrs.crate",
    "hlrs.report.tables",
    "hlrs.report.lineage",
    "hlrs.report.page",
    "hlrs.report.runs",
    "hlrs.report.comparisons",
    "hlrs.report.exports",
    "hlrs.report.wording",
    "hlrs.report.statistics",
    "hlrs.report.claim",
    "hlrs.report.heatmaps",
    "hlrs.report.figures_results",
    "hlrs.report.figures_training",
    "hlrs.report.figures",
    "hlrs.nas.genotype",
    "hlrs.nas.arch_lr",
    "hlrs.nas.drawing",
    "hlrs.longtail.mixing",
    "hlrs.longtail.metrics",
    "hlrs.data.split",
    "hlrs.data.sources",
]


def in_package(module, package):
    return module == package or module.startswith(package + ".")


def imports(path):
    """What a file imports of hlrs, anywhere in it; a package only if it is meant itself."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = below & (MODULES.keys() | PACKAGES.keys())
            found |= modules
            if modules != below:  # a name that the module defines
                found.add(node.module)
    return {name for name in found if in_package(name, "hlrs")}


def immediate(path):
    """Likewise, of the imports that run when the module is imported (not those in functions or for types)."""
    kept = []

    def visit(nodes):
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                kept.append(node)
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                visit(node.orelse)
            elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                visit(ast.iter_child_nodes(node))

    visit(ast.parse(path.read_text()).body)
    found = set()
    for node in kept:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in found if name in MODULES}


@pytest.mark.parametrize("name", MODULES)
def test_what_is_imported_of_hlrs_exists(name):
    assert imports(MODULES[name]) <= MODULES.keys() | PACKAGES.keys()


@pytest.mark.parametrize("name", [n for n in MODULES if any(in_package(n, layer) for layer in LOWEST)])
def test_data_longtail_and_nas_know_their_own_package_and_errors_only(name):
    own = next(layer for layer in LOWEST if in_package(name, layer))
    strangers = {m for m in imports(MODULES[name]) if not in_package(m, own) and m != "hlrs.errors"}
    assert strangers == set()


@pytest.mark.parametrize("name", [n for n in MODULES if not in_package(n, "hlrs.stages") and n not in UPPER])
def test_stages_are_imported_by_the_command_line_only(name):
    assert {m for m in imports(MODULES[name]) if in_package(m, "hlrs.stages")} == set()


@pytest.mark.parametrize("name", [n for n in MODULES if in_package(n, "hlrs.stages")])
def test_stages_do_not_know_each_other(name):
    known = {m for m in imports(MODULES[name]) if in_package(m, "hlrs.stages")}
    assert known <= {"hlrs.stages.parts"}


def test_errors_import_nothing_and_the_declarations_only_errors():
    assert imports(MODULES["hlrs.errors"]) == set()
    assert imports(MODULES["hlrs.config"]) == {"hlrs.errors"}


@pytest.mark.parametrize("name", [n for n in MODULES if n not in ("hlrs.__main__",)])
def test_nothing_imports_the_command_line(name):
    assert not {m for m in imports(MODULES[name]) if m in UPPER}


@pytest.mark.parametrize("name", FILES)
def test_no_relative_imports(name):
    nodes = ast.walk(ast.parse(FILES[name].read_text()))
    assert not [n for n in nodes if isinstance(n, ast.ImportFrom) and n.level]


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_hold_a_docstring_and_the_version_only(name):
    """Digests of code pass over `__init__.py`."""
    docstring, *rest = ast.parse(PACKAGES[name].read_text()).body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(docstring.value, ast.Constant)
    allowed = ["__version__"] if name == "hlrs" else []
    assert [ast.unparse(n.targets[0]) for n in rest if isinstance(n, ast.Assign)] == allowed
    assert all(isinstance(n, ast.Assign) for n in rest)


def test_no_import_cycles():
    left = {name: immediate(path) for name, path in MODULES.items()}
    assert left["hlrs.plan"] >= {"hlrs.artifacts", "hlrs.fingerprint"}  # the reading works
    while left:
        free = {name for name, needs in left.items() if not needs & left.keys()}
        assert free, f"these import each other: {sorted(left)}"
        left = {name: needs for name, needs in left.items() if name not in free}


def test_light_modules_load_without_torch():
    script = (
        "import importlib, json, sys\n"
        "heavy = {}\n"
        f"for name in {LIGHT!r}:\n"
        "    importlib.import_module(name)\n"
        "    heavy[name] = sorted({'torch', 'torchvision'} & sys.modules.keys())\n"
        "print(json.dumps(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: [] for name in LIGHT}


def test_the_command_line_loads_without_what_takes_time():
    script = "import hlrs.cli, json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    slow = {
        "torch",
        "torchvision",
        "numpy",
        "pandas",
        "pyarrow",
        "scipy",
        "sklearn",
        "snakemake",
        "dvc",
        "pydantic",
    }
    assert slow & set(json.loads(done.stdout)) == set()
