"""What counts as a change of a job's code, and which definitions changed."""

import ast
import functools
import importlib
import pkgutil
import re
import subprocess
from ast import Attribute, Constant, Import, ImportFrom, Name
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any, get_args

import pytest

import hlrs
from hlrs.artifacts import code_digest as module_under_test
from hlrs.artifacts.code_digest import (
    PACKAGE,
    Code,
    changed,
    code_digest,
    committed,
    committed_since,
    here,
    is_table,
    why_unknown,
)
from hlrs.config import data, jobs, methods, params, recipes, spaces
from hlrs.config.base import Spec
from hlrs.errors import UserError
from hlrs.pipeline import environment
from tests.messages import says

INNER = '''"""The docstring of the module."""


def inner(weights, a, b, x, y):
    """The docstring of the function (§2.4)."""
    best = weights[:, 1:].max(-1)
    if a < b:
        return len(best), False, None
    return x + y, "text"
'''


class One(Spec):
    """A kind."""

    kind: str = "one"


class Two(One):
    """Another kind."""


class Params(Spec):
    """A job's parameters."""

    chosen: One = One()


SMALL = {  # near reaches inner through far, and late inside a function
    "stages/near.py": "from hlrs.far import outer\n\n\ndef run(job):\n    return outer\n",
    "stages/apart.py": "import json\n\n\ndef run(job):\n    return json\n",
    "far.py": "from hlrs import errors\nfrom hlrs.deep import inner as module\n\n"
    "outer = module.inner, module.more\n",
    "deep/inner.py": INNER
    + "\n\ndef more():\n    import hlrs.late\n    from hlrs.config import A\n    return A, hlrs.late.VALUE\n",
    "late.py": "VALUE = 1\nOTHER = 1\n",
    "config.py": "from hlrs.base import Spec\n\nCHANGES_NO_RESULT = True\nA = 1\n\n\n"
    "class One(Spec):\n    pass\n\n\nclass Two(One):\n    pass\n",
    "errors.py": "CHANGES_NO_RESULT = True\nB = 1\n",
    "base.py": "class Spec:\n    pass\n",
    "unused.py": "C = 1\n",
    "kinds.py": "from hlrs.base import Kinds\nfrom hlrs.config import One, Two\n"
    "from hlrs.parts import first, second\n\n"
    "TABLE: Kinds[int] = {One: first, Two: second}\n\n\ndef pick(spec):\n    return TABLE[type(spec)]\n",
    "parts.py": "HELP = 1\n\n\ndef first():\n    return HELP\n\n\ndef second():\n    return 2\n",
    "stages/table.py": "from hlrs.kinds import pick\n\n\ndef run(job):\n    return pick(job)\n",
}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A package of a few lines with the stages `near`, `apart` and `table`."""
    for name, text in SMALL.items():
        path = tmp_path / "hlrs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(module_under_test, "PACKAGE", tmp_path / "hlrs")
    here.cache_clear()
    yield tmp_path / "hlrs"
    here.cache_clear()


def digests(*stages, given=Params()):  # noqa: B008 - frozen
    here.cache_clear()
    return {stage: code_digest(stage, given) for stage in stages}


def changed_by(path: Path, change, stages=("near", "apart"), given=Params()) -> set[str]:  # noqa: B008
    """The stages whose digest depends on a change of a file; the change must alter its text."""
    before, text = digests(*stages, given=given), path.read_text()
    edited = change(text)
    assert edited != text
    path.write_text(edited)
    after = digests(*stages, given=given)
    return {stage for stage in stages if before[stage] != after[stage]}


def replaced(old, new):
    def change(text):
        assert old in text, old
        return text.replace(old, new)

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "# a comment\n" + text + "\n\n# another\n",
        lambda text: text + '\n"""A string without effect."""\n',
        replaced("(weights, a, b, x, y)", "(\n    weights, a,  # two\n    b, x, y,\n)"),
        replaced("(§2.4)", "(§2.5)"),
        replaced("The docstring of the module", "Other words"),
        replaced('"text"', "'text'"),
        lambda text: "import os\n" + text,
        lambda text: text + "\n\ndef unused():\n    return 1\n",
    ],
    ids=["comment", "bare string", "layout", "docstring", "module docstring", "quotes", "import", "unused"],
)
def test_comments_docstrings_layout_and_unused_code_do_not_count(small, change):
    assert changed_by(small / "deep" / "inner.py", change) == set()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1:", "2:"),
        ("1:", "1.0:"),
        ("-1", "1"),
        ("return len(best)", "return -len(best)"),
        ("return len", "return abs"),
        ("False", "True"),
        ("False", "0"),
        ("None", "..."),
        ("a < b", "a <= b"),
        ("x + y", "y + x"),
        ('"text"', '"test"'),
        ('"text"', 'b"text"'),
        ("b, x", "b=None, x=None"),
        ("def inner", "@print\ndef inner"),
        ("    if a < b:\n        return len(best), False, None\n", ""),
    ],
)
def test_any_change_of_code_counts(small, old, new):
    inner = small / "deep" / "inner.py"
    inner.write_text(SMALL["deep/inner.py"].replace("y)", "y=3)"))
    assert changed_by(inner, replaced(old, new)) == {"near"}


def test_a_digest_is_the_same_twice_and_differs_between_stages(small):
    first = digests("near", "apart")
    assert digests("near", "apart") == first
    assert first["near"] != first["apart"]


def test_imports_inside_functions_are_followed(small):
    assert changed_by(small / "late.py", replaced("VALUE = 1", "VALUE = 2")) == {"near"}


@pytest.mark.parametrize("name", ["config.py", "errors.py", "unused.py"])
def test_declarations_and_unused_modules_do_not_count(small, name):
    assert changed_by(small / name, replaced("1", "2")) == set()


@pytest.mark.parametrize(
    "stray", ["config (copy).py", "config.orig.py", "._config.py", ".ipynb_checkpoints/config-checkpoint.py"]
)
def test_what_python_cannot_import_does_not_count(small, stray):
    """Copies that editors, Jupyter and file managers leave, here of all specs; links that mark open files."""
    before = digests("near", "table")
    path = small / stray
    path.parent.mkdir(exist_ok=True)
    path.write_text(SMALL["config.py"].replace("A = 1", "A = 2"))
    (small / ".#far.py").symlink_to("me@host.1234")
    (small / "folder.py").mkdir()
    assert digests("near", "table") == before
    then = committed(commit_all(small.parent))
    assert {stage: then.digest(stage, Params()) for stage in ("near", "table")} == before


@pytest.mark.parametrize("copy", ["config_old.py", "a_config.py"])
def test_of_two_modules_that_declare_a_spec_the_imported_one_counts(small, copy):
    """A copy that Python could import, and that nobody does, before or after the module by name."""
    config = small / "config.py"
    text = SMALL["config.py"].replace("(Spec):\n    pass", "(Spec):\n    given: ClassVar[int] = 1")
    config.write_text(text)
    (small / "stages" / "apart.py").write_text("def run(job):\n    return job.given\n")
    before = digests("apart")
    (small / copy).write_text(text.replace("= 1", "= 2"))
    assert digests("apart") == before
    assert changed_by(config, replaced("ClassVar[int] = 1", "ClassVar[int] = 3")) == {"apart"}


@pytest.mark.parametrize("text", ["VALUE = (1\n", "VALUE = 1\0\n"])
def test_a_module_that_is_no_python_is_named(small, text):
    (small / "late.py").write_text(text)
    with pytest.raises(UserError) as error:
        digests("near")
    says(str(error.value), "hlrs/late.py", "correct it")
    assert digests("apart")  # which does not need it


def test_moving_code_renaming_a_module_and_reordering_do_not_count(small):
    before = digests("near", "table")
    (small / "deep" / "inner.py").rename(small / "deep" / "moved.py")
    far = small / "far.py"
    far.write_text("from hlrs.deep.moved import inner as other, more\n\nouter = other, more\n")
    (small / "parts.py").write_text(
        "def second():\n    return 2\n\n\ndef first():\n    return HELP\n\n\nHELP = 1\n"
    )
    assert digests("near", "table") == before


def test_a_definition_moved_out_of_the_module_that_uses_it_does_not_count(small):
    before = digests("table")
    (small / "help.py").write_text("HELP = 1\n")
    parts = small / "parts.py"
    parts.write_text(
        parts.read_text()
        .replace("HELP = 1\n", "from hlrs.help import HELP as OTHER\n")
        .replace("return HELP", "return OTHER")
    )
    assert digests("table") == before


@pytest.mark.parametrize(
    "use",
    [
        "from hlrs.hidden import A\n\n\ndef run(job):\n    return A.make()",
        "import hlrs.hidden\n\n\ndef run(job):\n    return hlrs.hidden.A.make()",
    ],
)
def test_a_class_counts_if_its_attribute_is_used(small, use):
    (small / "stages" / "apart.py").write_text(f"{use}\n")
    (small / "hidden.py").write_text("class A:\n    @staticmethod\n    def make():\n        return 1\n")
    assert changed_by(small / "hidden.py", replaced("return 1", "return 2")) == {"apart"}


def test_the_target_of_an_import_counts(small):
    stage = small / "stages" / "apart.py"
    assert changed_by(stage, replaced("import json", "import os as json")) == {"apart"}
    assert changed_by(stage, replaced("import os as json", "import os as json, re")) == set()


def test_a_kind_and_its_callees_count_only_where_selected(small):
    one, two, stages = Params(), Params(chosen=Two()), ("table",)
    parts = small / "parts.py"
    assert changed_by(parts, replaced("return 2", "return 3"), stages, one) == set()
    assert changed_by(parts, replaced("return 3", "return 4"), stages, two) == {"table"}
    assert changed_by(parts, replaced("HELP = 1", "HELP = 2"), stages, one) == {"table"}
    assert changed_by(parts, replaced("HELP = 2", "HELP = 3"), stages, two) == set()
    third = replaced("Two: second}", "Two: second, Three: third}")
    assert changed_by(small / "kinds.py", third, stages, one) == set()
    assert changed_by(small / "kinds.py", replaced("One: first", "One: second"), stages, one) == {"table"}


@pytest.mark.parametrize(
    ("body", "counts"),
    [
        ("    VALUE = 2\n    return VALUE", False),
        ("    for VALUE in job:\n        return VALUE", False),
        ("    return [VALUE for VALUE in job]", True),  # counts needlessly, which is safe
        ("    def inner(VALUE):\n        return VALUE\n\n    return inner, VALUE", True),
        ("    def inner():\n        VALUE = 2\n\n    return VALUE", True),
        ("    return lambda VALUE: VALUE", False),
        ("    return lambda other=VALUE: other", True),
        ("    from hlrs.late import VALUE\n\n    return VALUE", False),
    ],
)
def test_a_local_variable_hides_a_definition(small, body, counts):
    stage = small / "stages" / "apart.py"
    stage.write_text(f"VALUE = 1\n\n\ndef run(job):\n{body}\n")
    assert (changed_by(stage, replaced("VALUE = 1", "VALUE = 3")) == {"apart"}) == counts


@pytest.mark.parametrize(
    "use",
    [
        "def run(job, chosen=secret):\n    return chosen",
        "@secret\ndef run(job):\n    return 1",
        "@secret\nclass A:\n    pass\n\n\ndef run(job):\n    return A",
    ],
    ids=["default", "decorator", "decorated class"],
)
def test_names_in_defaults_and_decorators_count(small, use):
    (small / "stages" / "apart.py").write_text(f"from hlrs.hidden import secret\n\n\n{use}\n")
    (small / "hidden.py").write_text("def secret(value=None):\n    return value\n")
    assert changed_by(small / "hidden.py", replaced("return value", "return 1")) == {"apart"}


def test_a_module_passed_as_a_value_counts_whole(small):
    """As with getattr(late, name), any of its definitions may be used."""
    (small / "stages" / "apart.py").write_text(
        "from hlrs import late\n\n\ndef run(job):\n    return vars(late)\n"
    )
    assert changed_by(small / "late.py", replaced("OTHER = 1", "OTHER = 2")) == {"apart"}


@pytest.mark.parametrize(
    ("files", "counts"),
    [
        # class variables, one of them inherited, and properties that the code reads
        ({"run": "return job.given", "config": "    given: ClassVar[int] = VALUE"}, True),
        ({"run": "return job.given", "base": "    given: ClassVar[int] = VALUE"}, True),
        (
            {
                "run": "return job.given",
                "config": "    @property\n    def given(self):\n        return VALUE",
            },
            True,
        ),
        ({"run": "return job.other", "config": "    given: ClassVar[int] = VALUE"}, False),
        # defaults of fields where the code constructs the spec
        ({"run": "return One()", "config": "    given: int = VALUE"}, True),
        ({"run": "return isinstance(job, One)", "config": "    given: int = VALUE"}, False),
        ({"run": "return job.given", "config": "    given: int = VALUE"}, False),  # it is in the params
    ],
)
def test_a_spec_counts_as_far_as_the_code_reads_or_constructs_it(small, files, counts):
    """The value stands beside the spec that declares it, in a module of which only members of specs count."""
    (small / "base.py").write_text(f"VALUE = 1\n\n\nclass Spec:\n{files.get('base', '    pass')}\n")
    head = "from hlrs.base import Spec\n\nCHANGES_NO_RESULT = True\nVALUE = 1\n\n\n"
    (small / "config.py").write_text(f"{head}class One(Spec):\n{files.get('config', '    pass')}\n")
    run = f"from hlrs.config import One\n\n\ndef run(job):\n    {files['run']}\n"
    (small / "stages" / "apart.py").write_text(run)
    home = small / ("base.py" if "base" in files else "config.py")
    assert (changed_by(home, replaced("VALUE = 1", "VALUE = 2")) == {"apart"}) == counts


def test_a_spec_that_the_code_constructs_selects_its_entry(small):
    stage = small / "stages" / "table.py"
    stage.write_text(
        "from hlrs.config import Two\nfrom hlrs.kinds import pick\n\n\n"
        "def run(job):\n    return pick(Two())\n"
    )
    parts = small / "parts.py"
    assert changed_by(parts, replaced("return 2", "return 3"), ("table",)) == {"table"}


def test_swapping_definitions_of_the_same_name_counts(small):
    for module, value in (("left", 1), ("right", 2)):
        (small / f"{module}.py").write_text(f"def conv():\n    return {value}\n")
    stage = small / "stages" / "apart.py"
    stage.write_text(
        "from hlrs import left, right\n\n\ndef first():\n    return left.conv()\n\n\n"
        "def second():\n    return right.conv()\n\n\ndef run(job):\n    return first(), second()\n"
    )
    swapped = {"left.conv": "right.conv", "right.conv": "left.conv"}
    swap = lambda text: re.sub("left.conv|right.conv", lambda found: swapped[found.group()], text)  # noqa: E731
    assert changed_by(stage, swap) == {"apart"}


def test_splitting_a_module_into_a_package_does_not_count(small):
    before = digests("near")
    package = small / "deep" / "inner"
    package.mkdir()
    half = (small / "deep" / "inner.py").rename(package / "inner.py")  # named like what it defines
    (package / "__init__.py").write_text("from .inner import inner, more\n\n__all__ = ['inner', 'more']\n")
    assert digests("near") == before
    assert changed_by(half, replaced("x + y", "y + x")) == {"near"}


def test_a_module_left_out_may_be_renamed(small):
    stage = small / "stages" / "apart.py"
    stage.write_text("from hlrs.errors import B\n\n\ndef run(job):\n    return B\n")
    before = digests("apart")
    (small / "errors.py").rename(small / "failures.py")
    stage.write_text(stage.read_text().replace("errors", "failures"))
    assert digests("apart") == before
    assert changed_by(small / "failures.py", replaced("B = 1", "B = 2")) == set()
    assert changed_by(small / "failures.py", replaced("CHANGES_NO_RESULT = True", "")) == {"apart"}


@pytest.mark.parametrize(
    "use",
    [
        "class A:\n    def one(self):\n        from hlrs.late import HELP\n\n        return HELP\n\n"
        "    def two(self):\n        return HELP\n\n\ndef run(job):\n    return A",
        "def run(job):\n    OTHER = 1\n\n    def inner():\n        from hlrs.parts import HELP as OTHER\n\n"
        "        return OTHER\n\n    return inner, OTHER",
    ],
    ids=["an import in another method", "a local variable around it"],
)
def test_imports_belong_to_their_own_function(small, use):
    (small / "late.py").write_text("HELP = 0\n")
    (small / "stages" / "apart.py").write_text(f"from hlrs.parts import HELP\n\n\n{use}\n")
    assert changed_by(small / "parts.py", replaced("HELP = 1", "HELP = 2")) == {"apart"}


def test_code_that_runs_on_import_counts(small):
    assert changed_by(small / "deep" / "inner.py", lambda text: text + "\n\nprint(1)\n") == {"near"}


# --- the package itself -------------------------------------------------------------------------------

IMAGES = jobs.Images(
    content="c",
    source=data.Digits(),
    image_size=None,
    stem="cifar",
    augment=data.Augment(),
    stream=data.Stream(),
)
DARTS = jobs.SearchJob(
    seed=0,
    images=IMAGES,
    searcher=methods.Darts(),
    objective=methods.Plain(),
    arch_lr=methods.ConstantLR(),
    search=recipes.Search(),
)
HLRS = DARTS.model_copy(update={"objective": methods.Bilateral(), "arch_lr": methods.CoupledLR()})
RETRAIN = jobs.RetrainJob(
    seed=0,
    retrain_seed=0,
    space=spaces.DartsSpace(),
    resnet=None,
    images=IMAGES,
    retrain=recipes.Retrain(),
)
EVALUATE = jobs.EvaluateJob(
    space=spaces.DartsSpace(),
    resnet=None,
    images=IMAGES,
    retrain=recipes.Retrain(),
    groups=data.Groups(),
    evaluate=recipes.Evaluation(),
)
CRT = recipes.RetrainedClassifier()
SPLIT = jobs.SplitJob(
    content="c",
    source=data.Digits(),
    imbalance=data.Natural(),
    protocol="seeded",
    seed=0,
    max_per_class=None,
    test_per_class=9,
    weights_fraction=0.5,
    holdout_fraction=0.0,
)
SECTIONS = params.Sections(
    matrix=params.Matrix(datasets=["d"], methods=["m"], seeds=[0]),
    datasets={"d": data.Dataset(source=data.Digits(), imbalance=data.Natural(), test_per_class=9)},
    methods={"m": methods.Method(searcher=methods.Darts(), objective=methods.Plain())},
    search=recipes.Search(),
    retrain=recipes.Retrain(),
    evaluate=recipes.Evaluate(),
)
JOBS = {
    "split": ("split", SPLIT),
    "darts": ("search", DARTS),
    "hlrs": ("search", HLRS),
    "extract": ("extract", jobs.ExtractJob(genotype=None, space=spaces.DartsSpace())),
    "published": ("extract", jobs.ExtractJob(genotype="PDARTS", space=spaces.DartsSpace())),
    "lookup": ("lookup", jobs.LookupJob(content="c", table="t.csv")),
    "retrain": ("retrain", RETRAIN),
    "cRT": ("retrain", RETRAIN.model_copy(update={"retrain": recipes.Retrain(classifier=CRT)})),
    "evaluate": ("evaluate", EVALUATE),
    "report": ("report", jobs.ReportJob(report=recipes.Report(), params=SECTIONS)),
}
FILES: dict[str, bytes] = {
    path.relative_to(PACKAGE).as_posix(): path.read_bytes()
    for pattern in ("*.py", "*.j2")
    for path in PACKAGE.rglob(pattern)
}
CODE = Code(FILES)
BEFORE = {name: CODE.digest(*job) for name, job in JOBS.items()}


def due(edits: dict[str, Any], jobs: dict[str, Any] = JOBS) -> set[str]:
    """The jobs whose digest changes with edits: file -> change of its text."""
    files = FILES | {file: change(FILES[file].decode()).encode() for file, change in edits.items()}
    code = Code(files)
    return {name for name, job in jobs.items() if code.digest(*job) != CODE.digest(*job)}


def with_entry(table: str, entry: str) -> Any:
    """Add an entry to a table."""

    def change(text: str) -> str:
        [node] = [n for n in ast.parse(text).body if is_table(n) and getattr(n, "target").id == table]  # noqa: B009
        lines = text.splitlines(keepends=True)
        end = sum(map(len, lines[: node.end_lineno])) - len("}\n")
        return f"{text[:end].rstrip().removesuffix(',')}, {entry}{text[end:]}"

    return change


def with_kind(table: str, name: str) -> Any:
    """Add a kind: a definition after its module's table, and its entry, keyed by a spec of the same name."""
    added = f"from hlrs.config.methods import {name}Spec\n\n\ndef {name}(*given):\n    return 0\n"
    enter = with_entry(table, f"{name}Spec: {name}")
    return lambda text: f"{enter(text)}\n\n{added}"


TABLES = {
    "SCHEDULES": "nas/arch_lr.py",
    "LOSSES": "longtail/losses.py",
    "COEFFICIENTS": "longtail/mixing.py",
    "OBJECTIVES": "longtail/objectives.py",
    "DEMANDS": "longtail/objectives.py",
    "HEADS": "nas/network.py",
    "SAMPLERS": "data/samplers.py",
    "SOURCES": "data/sources/open.py",
    "IMBALANCES": "data/split.py",
    "POLICIES": "data/augment.py",
    "SEARCHERS": "nas/searchers/table.py",
    "WINDOWS": "nas/searchers/table.py",
    "RELAXATIONS": "nas/relaxation.py",
    "TEMPERATURES": "nas/searchers/darts.py",
    "OPERATION_WEIGHTS": "nas/searchers/darts.py",
    "DERIVATIONS": "nas/genotype.py",
    "GIVEN": "nas/genotype.py",
    "PARSERS": "nas/genotype.py",
    "SUPERNETS": "nas/spaces.py",
    "NETWORKS": "nas/spaces.py",
    "OPTIMIZERS": "training/optim.py",
    "LEARNING_RATES": "training/optim.py",
}


def in_turn(changes):
    """Apply several changes to a text."""
    return lambda text: functools.reduce(lambda changed, change: change(changed), changes, text)


def test_a_new_kind_in_every_table_makes_no_job_due():
    added = {
        file: in_turn([with_kind(table, f"new_{table}") for table, its in TABLES.items() if its == file])
        for file in TABLES.values()
    }
    assert due(added) == set()


def test_a_change_of_a_kind_affects_only_jobs_that_select_it():
    assert due({"nas/arch_lr.py": replaced("return 1.0\n", "return 0.5\n")}) == {"darts"}
    assert due({"longtail/mixing.py": replaced("return 1 - t**2", "return 1 - t**3")}) == {"hlrs"}
    assert due({"longtail/losses.py": replaced("-(rest**", "+(rest**")}) == set()  # no job selects focal
    assert due({"nas/searchers/gdas.py": lambda text: text.replace("return ", "return 0 or ")}) == set()


def test_a_change_of_a_callee_affects_only_jobs_that_select_its_caller():
    """A callee of cross-entropy, and one of class weights, which no job selects."""
    assert due(
        {"longtail/losses.py": replaced("losses = self.of_images(", "losses = 2 * self.of_images(")}
    ) == {
        "darts",
        "hlrs",
        "retrain",
        "cRT",
    }
    assert due({"longtail/losses.py": replaced("weights = (1 - beta)", "weights = (2 - beta)")}) == set()
    assert due(
        {"data/samplers.py": replaced("return torch.multinomial", "return 0 * torch.multinomial")}
    ) == {"hlrs", "cRT"}


def in_class(name, old, new):
    """Replace in the body of one class, once."""

    def change(text):
        head, body = text.split(f"class {name}(Spec):")
        own, found, rest = body.partition(old)
        assert found, old
        assert "\nclass " not in own, old
        return f"{head}class {name}(Spec):{own}{new}{rest}"

    return change


@pytest.mark.parametrize(
    ("spec", "variable", "jobs_of"),
    [
        # charts also read a `scale`
        (
            "CrossEntropy",
            "scale: ClassVar[None] = None",
            {*BEFORE} - {"split", "extract", "published", "lookup"},
        ),
        ("CrossEntropy", "reweights: ClassVar[bool] = False", {"report"}),  # read by the claim
        ("Focal", "reweights: ClassVar[bool] = True", set()),  # no job selects it
        ("CrossEntropy", 'corrects: ClassVar[str] = ""', set()),  # validates params only
    ],
)
def test_a_class_variable_of_a_spec_counts_only_where_selected_and_read(spec, variable, jobs_of):
    other = variable.rpartition("=")[0] + '= "changed"'
    assert due({"config/methods.py": in_class(spec, variable, other)}) == jobs_of


def test_the_entries_and_defaults_of_constructed_specs_count():
    """Only cRT constructs a sampler and a schedule; the report's claim validates whole recipes."""
    drawn = replaced("draw, torch.ones_like)", "draw, torch.zeros_like)")
    assert due({"data/samplers.py": drawn}) == {"cRT"}
    kind = in_class("CosineSchedule", '"cosine"] = "cosine"', '"cosine"] = "other"')
    assert due({"config/recipes.py": kind}) == {"cRT", "report"}
    lr_min = in_class("Optimizer", "lr_min: float = Field(0.0", "lr_min: float = Field(0.1")
    assert due({"config/recipes.py": lr_min}) == {"report"}
    assert due({"config/recipes.py": in_class("Adam", "WeightDecay = 1e-3", "WeightDecay = 1e-2")}) == {
        "report"
    }


def searching(space: spaces.Space) -> jobs.SearchJob:
    """A search in a space."""
    return DARTS.model_copy(update={"search": recipes.Search(space=space, cells=3)})


NASBENCH201 = spaces.NasBench201Space()
OF_SPACES = {
    "darts": ("search", DARTS),
    "wide": ("search", searching(spaces.DartsSpace(primitives=["skip_connect", "sep_conv_7x7"]))),
    "nasbench201": ("search", searching(NASBENCH201)),
    "narrow": ("search", searching(spaces.NasBench201Space(primitives=["none", "nor_conv_1x1"]))),
    "extract": ("extract", jobs.ExtractJob(genotype=None, space=NASBENCH201)),
    "cell": ("extract", jobs.ExtractJob(genotype="|nor_conv_3x3~0|", space=NASBENCH201)),
    "retrain": ("retrain", RETRAIN.model_copy(update={"space": NASBENCH201})),
    "darts retrain": ("retrain", RETRAIN),
}


@pytest.mark.parametrize(
    ("file", "change", "jobs_of"),
    [
        (
            "nas/nasbench201.py",
            ("make_cell, stem_norm", "make_cell, 2 * stem_norm"),
            {"nasbench201", "narrow"},
        ),
        ("nas/nasbench201.py", ("return x * 0", "return x * 1"), {"retrain"}),
        ("nas/supernet.py", ("make_cell, stem_norm", "make_cell, 2 * stem_norm"), {"darts", "wide"}),
        ("nas/mixed_edges.py", ("partial(separable, 7)", "partial(separable, 9)"), {"wide"}),
        ("nas/mixed_edges.py", ("((1, 1),)", "((1, 3),)"), {"nasbench201", "narrow"}),
        ("nas/mixed_edges.py", ("((3, 3),)", "((3, 5),)"), {"nasbench201"}),
        # what reads a cell's string: one function extracts both
        (
            "config/spaces.py",
            ("int(state)) for operation", "1 * int(state)) for operation"),
            {"extract", "cell", "retrain"},
        ),
        (
            "nas/genotype.py",
            ("for node in self.normal)", "for node in self.normal[:3])"),
            {"nasbench201", "narrow", "extract", "cell", "retrain"},
        ),
    ],
)
def test_a_change_of_a_space_or_operation_affects_only_jobs_that_select_it(file, change, jobs_of):
    assert due({file: replaced(*change)}, OF_SPACES) == jobs_of


CHOICES = {
    "PUBLISHED": ("nas/genotype.py", '"BRAND_NEW": _published([], [])'),
    "KEYS": ("nas/genotype.py", '"brand_new": ("nodes",)'),
    "FIXED": ("nas/genotype.py", '"brand_new": NO_CELL'),
    "DARTS_SHARED": ("nas/mixed_edges.py", '"brand_new": avg_pool'),
    "DARTS_OWN": ("nas/mixed_edges.py", '"brand_new": partial(separable, 9)'),
    "NASBENCH201_SHARED": ("nas/mixed_edges.py", '"brand_new": normalized_avg_pool'),
    "NASBENCH201_OWN": ("nas/mixed_edges.py", '"brand_new": partial(DenseConv, ((5, 5),))'),
    "SCHEMAS": ("artifacts/tables.py", '"brand_new": {"index": "int64"}'),
    "TORCHVISION": ("data/sources/arrays.py", '"brand_new": "BrandNew"'),
}


def test_a_new_choice_in_every_table_makes_no_job_due():
    added = {
        file: in_turn([with_entry(table, entry) for table, (its, entry) in CHOICES.items() if its == file])
        for file, _ in CHOICES.values()
    }
    assert due(added) == set()


def test_a_change_of_a_choice_affects_only_jobs_that_name_it():
    of_pdarts = replaced(
        '[("skip_connect", 0), ("dil_conv_3x3", 1)', '[("skip_connect", 1), ("dil_conv_3x3", 1)'
    )
    of_darts = replaced(
        '("skip_connect", 2), ("avg_pool_3x3", 0)', '("skip_connect", 2), ("avg_pool_3x3", 1)'
    )
    assert due({"nas/genotype.py": of_pdarts}) == {"published"}
    assert due({"nas/genotype.py": of_darts}) == set()
    trajectory = replaced('"edge_weight": "float32"', '"edge_weight": "float64"')
    predictions = replaced('"confidence": "float32"', '"confidence": "float64"')
    searched = {"darts", "hlrs", "extract", "published", "report"}  # one function extracts both
    assert due({"artifacts/tables.py": trajectory}) == searched
    assert due({"artifacts/tables.py": predictions}) == {"evaluate"}


def test_of_an_error_the_class_counts_and_not_the_message():
    message = replaced("outputs are not finite; lower", "an output is not finite: lower")
    assert due({"stages/evaluate.py": message}) == set()
    assert due({"data/sources/base.py": replaced("RENEW = ", "RENEW = 'now ' ")}) == set()
    raised = replaced(
        "raise Failure(f\"{job.inputs['weights']}: outputs",
        "raise ValueError(f\"{job.inputs['weights']}: outputs",
    )
    assert due({"stages/evaluate.py": raised}) == {"evaluate"}


def test_a_change_affects_only_the_stages_that_use_it():
    again, trained = replaced("return ", "return 0 or "), {"darts", "hlrs", "retrain", "cRT"}
    # the report's groups of classes, a retraining's loss on a holdout
    assert due({"longtail/metrics.py": again}) == {"evaluate", "report", "retrain", "cRT"}
    assert due({"data/batches.py": again}) == trained
    assert due({"training/loop.py": again}) == trained
    assert due({"nas/arch_lr.py": again}) == {"darts", "hlrs"}
    assert due({"report/charts.py": again}) == {"report"}
    assert due({"report/page.html.j2": replaced("<h1", "<h1 ")}) == {"report"}


def test_orchestration_and_declarations_do_not_count():
    again = replaced("return ", "return 0 or ")
    outside = (
        "pipeline/plan.py",
        "pipeline/execute.py",
        "artifacts/jobs.py",
        "training/progress.py",
    )
    assert due(dict.fromkeys(outside, again)) == set()
    assert due({"config/data.py": again}) == {"report"}  # which reads how a data set is drawn


def test_renaming_or_moving_a_module_makes_no_job_due():
    """Rename one module with all its mentions; move another to a different room."""
    files = {name: re.sub(rb"\bbilevel\b", b"twofold", text) for name, text in FILES.items()}
    files = {
        name: text.replace(b"hlrs.longtail.row_rates", b"hlrs.data.rates") for name, text in files.items()
    }
    files["nas/twofold.py"] = files.pop("nas/bilevel.py")
    files["data/rates.py"] = files.pop("longtail/row_rates.py")
    code = Code(files)
    assert {name: code.digest(*job) for name, job in JOBS.items()} == BEFORE


def modules() -> list[Any]:
    """All modules of the package that can be imported on this machine."""
    names = [m.name for m in pkgutil.walk_packages(hlrs.__path__, "hlrs.") if ".triton_" not in m.name]
    return [importlib.import_module(name) for name in names if not name.endswith("__main__")]


def test_every_table_of_kinds_has_the_form_that_the_digest_reads():
    """A mapping keyed by specs, at a module's top level, is an annotated dict display of names."""
    found = []
    for module in modules():
        tables = {n.target.id for n in ast.parse(Path(module.__file__).read_text()).body if is_table(n)}
        for name, value in vars(module).items():
            keyed = (
                isinstance(value, dict)
                and value
                and all(isinstance(k, type) and issubclass(k, Spec) for k in value)
            )
            defined = keyed and any(
                f"\n{name}: " in text or f"\n{name} = " in text
                for text in [Path(module.__file__).read_text()]
            )
            if defined:
                assert name in tables, (
                    f"{module.__name__}.{name}: write it as {name}: Kinds[...] = {{Spec: definition}}"
                )
                found.append(name)
    assert TABLES.keys() <= set(found)


def test_no_two_specs_share_a_name():
    """The digest identifies kinds by the names of their specs."""
    found = [spec for room in (data, jobs, methods, params, recipes, spaces) for spec in vars(room).values()]
    specs = {spec for spec in found if isinstance(spec, type) and issubclass(spec, Spec)}
    assert len({spec.__name__ for spec in specs}) == len(specs) > 50


UNIONS = {
    "SCHEDULES": methods.ArchLR,
    "LOSSES": methods.Loss,
    "HEADS": methods.Head,
    "COEFFICIENTS": methods.Mixing,
    "OBJECTIVES": methods.Objective,
    "OPTIMIZERS": recipes.AnyOptimizer,
    "LEARNING_RATES": recipes.Schedule,
    "DEMANDS": methods.Objective,
    "SAMPLERS": methods.Sampler,
    "SOURCES": data.Source,
    "FILES": data.Source,
    "IMBALANCES": data.Imbalance,
    **dict.fromkeys(("RELAXATIONS", "TEMPERATURES", "OPERATION_WEIGHTS"), methods.Relaxation),
    **dict.fromkeys(("DERIVATIONS", "PARSERS", "SUPERNETS", "NETWORKS"), spaces.Space),
}


def test_every_kind_that_params_may_name_is_in_its_table():
    found = [item for module in modules() for item in vars(module).items()]
    tables = {name: value for name, value in found if name in UNIONS and isinstance(value, dict)}
    assert {name: set(table) for name, table in tables.items()} == {
        name: set(get_args(get_args(union)[0])) for name, union in UNIONS.items()
    }


# no stage imports these (import-linter)
OUTSIDE = ("__init__", "__main__", "cli", "config", "inference", "pipeline", "provenance")
ROOMS = [f for f in FILES if f.endswith(".py") and f.removesuffix(".py").split("/")[0] not in OUTSIDE]
DECORATORS = {  # those that hand what they decorate to nobody
    "abc.abstractmethod",
    "classmethod",
    "contextlib.contextmanager",
    "dataclasses.dataclass",
    "functools.cache",
    "functools.cached_property",
    "property",
    "staticmethod",
    "torch.autograd.function.once_differentiable",
    "triton.jit",
}
BY_STRING = {"__import__", "builtins", "eval", "exec", "globals", "importlib", "locals", "pkgutil", "runpy"}
BY_NAME = ("importlib", "importlib.util", "importlib.util.find_spec", "importlib.util.resolve_name")
HOOKS = {"__init_subclass__", "__set_name__", "__subclasses__", "__globals__"}


def refusals(code: Code, file: str) -> Iterator[str]:
    """What the digest would miss in a module."""
    module = code._module(module_under_test._module_name(file))
    nodes = [*ast.walk(ast.parse(code.files[file]))]
    yield from (f"{n.lineno}: acts, or defines under a condition, on import" for n in module.loose)
    yield from (f"{name}: imported and defined" for name in module.definitions.keys() & module.imports.keys())
    kinds = Name | Constant if file.endswith("__init__.py") else Name
    used = {getattr(n, "id", getattr(n, "value", None)) for n in nodes if isinstance(n, kinds)}
    meanings: dict[str, set[str]] = {}
    for node in nodes:
        found: list[str] = []
        if isinstance(node, Import | ImportFrom):
            for name, dotted in module_under_test._imports([node], module.package).items():
                if dotted.startswith("hlrs."):
                    meanings.setdefault(name, set()).add(dotted)
            found = [*refused_imports(code, node, module.package, used)]
        elif isinstance(node, Name | Attribute):
            dotted = module_under_test._dotted(node, module.imports) or getattr(node, "id", "")
            if by_string(dotted) or dotted == "sys.modules" or getattr(node, "attr", "") in HOOKS:
                found = [f"{ast.unparse(node)} finds by string, or acts on import"]
            elif not isinstance(node.ctx, ast.Load) and isinstance(node, Attribute) and code._located(dotted):
                found = [f"{dotted} is bound from another module"]
        elif isinstance(node, ast.Global) and not code._left_out(module.name):
            found = [f"{node.names} are bound again"]
        elif isinstance(node, ast.AnnAssign):
            if ast.unparse(node.annotation).startswith(("Kinds", "Choices")) and not is_table(node):
                found = ["a table that is not written out"]
        elif isinstance(node, ast.JoinedStr) and (spelled := pattern(node)):
            found = [f"composes {key}, a name in a table" for key in choices() if re.fullmatch(spelled, key)]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found = [*refused_definitions(node, module.imports)]
        yield from (f"{node.lineno}: {why}" for why in found)
    yield from (f"{name}: imported from two places" for name, of in meanings.items() if len(of) > 1)


def refused_imports(code: Code, node: Import | ImportFrom, package: str, used: set[Any]) -> Iterator[str]:
    for name, dotted in module_under_test._imports([node], package).items():
        if by_string(dotted):
            yield f"{dotted} finds by string"
        if dotted.startswith("hlrs") and (isinstance(node, Import) or not code._located(dotted)):
            yield f"{dotted} is not a definition: import what is used by its name"
        if dotted.startswith("hlrs") and name not in used:
            yield f"{dotted} is imported for nothing but what happens then"


def refused_definitions(node: ast.FunctionDef | ast.ClassDef, imports: dict[str, str]) -> Iterator[str]:
    if node.name in HOOKS:
        yield f"{node.name} acts on import"
    if isinstance(node, ast.ClassDef) and any(isinstance(n, Import | ImportFrom) for n in node.body):
        yield "an import in the body of a class"
    for decorator in node.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        dotted = module_under_test._dotted(called, imports) or ast.unparse(called)
        if dotted not in DECORATORS:
            yield f"decorator {dotted} may register"


def by_string(dotted: str) -> bool:
    return dotted.split(".")[0] in BY_STRING and dotted not in BY_NAME


def pattern(text: ast.JoinedStr) -> str:
    """What an f-string may be, as a regular expression; empty if it has no words of its own."""
    parts = [re.escape(v.value) if isinstance(v, Constant) else ".*" for v in text.values]
    return "".join(parts) if any(re.search("[A-Za-z]{3}", part) for part in parts) else ""


@functools.cache
def choices() -> frozenset[str]:
    """The names in all tables of choices."""
    found = [n.value.keys for f in ROOMS for n in ast.parse(FILES[f]).body if is_table(n)]
    return frozenset(key.value for keys in found for key in keys if isinstance(key, Constant))


def test_no_module_that_stages_import_escapes_the_digest():
    assert len(ROOMS) > 70
    assert [f"{file}:{why}" for file in ROOMS for why in refusals(here(), file)] == []


def test_stages_import_only_specs_and_unions_from_config():
    """The digest leaves out functions and constants of hlrs.config."""
    others = {"Kinds", "Choices", "Spec", "parse"}  # types, and what only checks
    for file in ROOMS:
        for node in ast.walk(ast.parse(FILES[file])):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hlrs.config"):
                for alias in node.names:
                    value = getattr(importlib.import_module(str(node.module)), alias.name)
                    assert not isinstance(value, FunctionType | str | int | float | tuple | list | dict) or (
                        alias.name in others
                    ), f"{file}: {alias.name}"


@pytest.mark.parametrize(
    "text",
    [
        "REGISTER = {}\n\n\ndef register(f):\n    return f\n\n\n@register\ndef hidden():\n    pass\n",
        "from functools import singledispatch\n\n\n@singledispatch\ndef act(x):\n    pass\n",
        "def act(x):\n    pass\n\n\nclass A:\n    @act.register\n    def _(self, x):\n        pass\n",
        "from importlib import import_module\n",
        "import importlib\n\n\ndef act(name):\n    return importlib.import_module(name)\n",
        "import pkgutil\n\n\ndef act(name):\n    return pkgutil.resolve_name(name)\n",
        "import sys\n\n\ndef act(name):\n    return sys.modules[name]\n",
        "def act(name):\n    return eval(name)\n",
        "def act(name, find=globals):\n    return find()[name]\n",
        "def act(base):\n    return base.__subclasses__()\n",
        "class A:\n    def __init_subclass__(cls):\n        pass\n",
        "try:\n    import triton\nexcept ImportError:\n    def act():\n        pass\n",
        "import sys\n\nif sys.platform == 'linux':\n    def act():\n        pass\n",
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    VALUE = 1\n",
        "TABLE = {}\nTABLE['name'] = 1\n",
        "import hlrs.nas.bilevel\n",
        "from hlrs.nas import bilevel\n",
        "from hlrs.nas.bilevel import *\n",
        "from hlrs.nas.bilevel import not_there\n\nVALUE = not_there\n",
        "from hlrs.nas.bilevel import frozen\n\nfrozen = print(frozen)\n",
        "def act(x):\n    if x:\n        from hlrs.nas.arch_lr import factor as f\n    else:\n"
        "        from hlrs.nas.bilevel import frozen as f\n    return f\n",
        "from hlrs.nas import bilevel\n\n\ndef act(x):\n    bilevel.frozen = x\n",
        "VALUE = 1\n\n\ndef act(x):\n    global VALUE\n    VALUE = x\n",
        "class A:\n    from hlrs.nas.bilevel import frozen\n\n    here = frozen\n",
        "from hlrs.config.base import Choices\n\nTABLE: Choices[int] = dict(a=1)\n",
        "def act(stage):\n    return f'{stage}_history'\n",
    ],
)
def test_code_that_the_digest_would_miss_is_rejected(text):
    code = Code(FILES | {"nas/brand_new.py": text.encode()})
    assert [*refusals(code, "nas/brand_new.py")]


def test_these_modules_and_no_others_are_left_out():
    assert sorted(here().marked) == [
        "hlrs.artifacts.jobs",
        "hlrs.config",
        "hlrs.errors",
        "hlrs.inference",
        "hlrs.training.progress",
        "hlrs.training.signals",
        "hlrs.training.startup",
    ]


# --- naming changes -----------------------------------------------------------------------------------


def test_changed_definitions_are_named(small):
    before = here().definitions("near", Params())
    assert set(before) == {
        "stages.near.run",
        "far.outer",
        "deep.inner.inner",
        "deep.inner.more",
        "late.VALUE",
    }
    (small / "far.py").write_text(
        "from hlrs.deep import inner as module\n\nouter = module.inner, module.Added\n"
    )
    (small / "deep" / "inner.py").write_text(
        INNER.replace("x + y", "y + x")
        + '\n\nclass Added:\n    """Words."""\n\n    def act(self):\n        pass\n'
    )
    here.cache_clear()
    assert changed(before, here().definitions("near", Params())) == [
        "deep.inner.Added (new)",
        "deep.inner.Added.act (new)",
        "deep.inner.inner",
        "deep.inner.more (gone)",
        "far.outer",
        "late.VALUE (gone)",
    ]


def run_git(folder, *arguments):
    names = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    done = subprocess.run(["git", *names, *arguments], cwd=folder, check=True, capture_output=True)
    return done.stdout.decode().strip()


def commit_all(folder):
    """Commit everything; return the commit."""
    run_git(folder, "init", "--quiet")
    run_git(folder, "add", "--all")
    run_git(folder, "commit", "--quiet", "--message", "first")
    return run_git(folder, "rev-parse", "HEAD")


def test_a_commit_has_the_values_that_its_own_specs_declare(small):
    config = small / "config.py"
    config.write_text(
        config.read_text().replace("(Spec):\n    pass", "(Spec):\n    given: ClassVar[int] = 1")
    )
    (small / "stages" / "apart.py").write_text("def run(job):\n    return job.given\n")
    commit = commit_all(small.parent)
    [before] = digests("apart").values()
    assert changed_by(config, replaced("= 1", "= 2")) == {"apart"}
    assert committed(commit).digest("apart", Params()) == before


def test_code_knows_whether_it_has_the_specs_of_params(small):
    code = Code({name: text.encode() for name, text in SMALL.items()})
    assert not code.knows(Params())  # a spec of these tests alone
    assert code.knows(One())


def test_a_commit_has_the_digest_of_its_checkout(small):
    commit, before = commit_all(small.parent), code_digest("near", Params())
    (small / "late.py").write_text("VALUE = 2\n")
    here.cache_clear()
    assert code_digest("near", Params()) != before
    then = committed(commit)
    assert then.digest("near", Params()) == before
    assert changed(then.definitions("near", Params()), here().definitions("near", Params())) == ["late.VALUE"]
    assert committed("0" * 40) is None
    assert committed(f"{commit[:12]} --output=x") is None


def test_code_that_ran_before_it_was_committed_is_found_in_later_commits(small):
    first = commit_all(small.parent)
    (small / "late.py").write_text("VALUE = 2\n")
    [ran] = digests("near").values()
    (small.parent / "notes.txt").touch()
    run_git(small.parent, "add", "notes.txt")
    run_git(small.parent, "commit", "--quiet", "--message", "no code")
    assert [code.digest("near", Params()) == ran for code in committed_since(first)] == [False]
    second = commit_all(small.parent)
    (small / "late.py").write_text("VALUE = 3\n")
    commit_all(small.parent)
    found = [code.digest("near", Params()) == ran for code in committed_since(first)]
    assert found == [False, True, False]
    assert [code.digest("near", Params()) == ran for code in committed_since(second)] == [True, False]
    assert [*committed_since("0" * 40)] == []


def test_the_repository_is_the_codes_own_whoever_owns_it_and_calls(small, tmp_path_factory, monkeypatch):
    """As in a container, in a colleague's clone, and in the hook of another repository."""
    other = tmp_path_factory.mktemp("other")
    (other / "file").touch()
    theirs = commit_all(other)
    (small / "__init__.py").touch()
    ours = commit_all(small.parent)
    monkeypatch.setattr(environment, "PACKAGE", small)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    found = environment.here("cpu")
    assert (found["commit"], found["dirty"]) == (ours, False)
    assert committed(ours) is not None
    assert committed(theirs) is None


def test_an_unknown_commit_has_the_remedy_that_brings_it(small, tmp_path, monkeypatch):
    assert "no Git repository" in why_unknown("0" * 40)[0]
    first = commit_all(small.parent)
    assert "`git fetch` the commit" in why_unknown("0" * 40)[1]
    (small / "late.py").write_text("VALUE = 2\n")
    commit_all(small.parent)
    shallow = tmp_path / "shallow"
    run_git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{small.parent}", str(shallow))
    monkeypatch.setattr(module_under_test, "PACKAGE", shallow / "hlrs")
    committed.cache_clear()
    assert committed(first) is None
    assert "--unshallow" in why_unknown(first)[1]
    run_git(shallow, "fetch", "--quiet", "--unshallow")
    committed.cache_clear()
    assert committed(first) is not None
