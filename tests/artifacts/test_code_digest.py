"""What counts as a change of a job's code, and which definitions changed."""

import ast
import importlib
import pkgutil
import re
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest

import hlrs
from hlrs.artifacts import code_digest as module_under_test
from hlrs.artifacts.code_digest import PACKAGE, Code, changed, code_digest, committed, here, is_table
from hlrs.config import data, jobs, methods, params, recipes
from hlrs.config.base import Spec

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
    "config.py": "A = 1\n",
    "errors.py": "B = 1\n",
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
RETRAIN = jobs.RetrainJob(seed=0, retrain_seed=0, resnet=None, images=IMAGES, retrain=recipes.Retrain())
EVALUATE = jobs.EvaluateJob(
    resnet=None, images=IMAGES, retrain=recipes.Retrain(), groups=data.Groups(), evaluate=recipes.Evaluate()
)
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
    "extract": ("extract", jobs.ExtractJob(genotype=None)),
    "retrain": ("retrain", RETRAIN),
    "evaluate": ("evaluate", EVALUATE),
    "report": ("report", jobs.ReportJob(report=recipes.Report(), params=SECTIONS)),
}
FILES: dict[str, bytes] = {
    path.relative_to(PACKAGE).as_posix(): path.read_bytes()
    for pattern in ("*.py", "*.j2")
    for path in PACKAGE.rglob(pattern)
}
BEFORE = {name: Code(FILES).digest(*job) for name, job in JOBS.items()}


def due(edits: dict[str, Any]) -> set[str]:
    """The jobs whose digest changes with edits: file -> change of its text."""
    files = FILES | {file: change(FILES[file].decode()).encode() for file, change in edits.items()}
    code = Code(files)
    return {name for name, job in JOBS.items() if code.digest(*job) != BEFORE[name]}


def with_kind(table: str, name: str) -> Any:
    """Add a kind: a definition after its module's table, and its entry, keyed by a spec of the same name."""

    def change(text: str) -> str:
        tree = ast.parse(text)
        [node] = [n for n in tree.body if is_table(n) and getattr(n, "target").id == table]  # noqa: B009
        lines = text.splitlines()
        assert node.end_lineno is not None
        last = lines[node.end_lineno - 1]
        lines[node.end_lineno - 1] = (
            f"{last[: last.rindex('}')].rstrip().rstrip(',')}, {name}Spec: {name}}}".lstrip(",")
        )
        added = f"from hlrs.config.methods import {name}Spec\n\n\ndef {name}(*given):\n    return 0\n"
        return "\n".join(lines) + "\n\n\n" + added

    return change


TABLES = {
    "nas/arch_lr.py": "SCHEDULES",
    "longtail/losses.py": "LOSSES",
    "longtail/mixing.py": "COEFFICIENTS",
    "longtail/objectives.py": "OBJECTIVES",
    "data/samplers.py": "SAMPLERS",
    "data/sources/open.py": "SOURCES",
    "data/split.py": "IMBALANCES",
    "data/augment.py": "POLICIES",
    "nas/searchers/table.py": "SEARCHERS",
}


@pytest.mark.parametrize(("file", "table"), TABLES.items())
def test_a_new_kind_makes_no_job_due(file, table):
    assert due({file: with_kind(table, "brand_new")}) == set()


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
    }
    assert due({"longtail/losses.py": replaced("weights = (1 - beta)", "weights = (2 - beta)")}) == set()
    assert due(
        {"data/samplers.py": replaced("return torch.multinomial", "return 0 * torch.multinomial")}
    ) == {"hlrs"}


@pytest.mark.parametrize(
    ("spec", "variable", "jobs_of"),
    [
        (methods.CrossEntropy, "scale", {*BEFORE} - {"split", "extract"}),  # charts also read a `scale`
        (methods.CrossEntropy, "reweights", {"report"}),  # read by the claim
        (methods.Focal, "reweights", set()),  # no job selects it
        (methods.CrossEntropy, "corrects", set()),  # validates params only; no result depends on it
    ],
)
def test_a_class_variable_of_a_spec_counts_only_where_selected_and_read(spec, variable, jobs_of, monkeypatch):
    monkeypatch.setattr(spec, variable, "changed")
    assert due({}) == jobs_of


def test_a_change_affects_only_the_stages_that_use_it():
    again = replaced("return ", "return 0 or ")
    assert due({"longtail/metrics.py": again}) == {"evaluate"}
    assert due({"data/batches.py": again}) == {"darts", "hlrs", "retrain"}
    assert due({"training/loop.py": again}) == {"darts", "hlrs", "retrain"}
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
        "config/methods.py",
    )
    assert due(dict.fromkeys(outside, again)) == set()


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
    assert set(TABLES.values()) <= set(found)


def test_no_two_specs_share_a_name():
    """The digest identifies kinds by the names of their specs."""
    found = [spec for room in (data, jobs, methods, params, recipes) for spec in vars(room).values()]
    specs = {spec for spec in found if isinstance(spec, type) and issubclass(spec, Spec)}
    assert len({spec.__name__ for spec in specs}) == len(specs) > 50


UNIONS = {
    "SCHEDULES": methods.ArchLR,
    "LOSSES": methods.Loss,
    "COEFFICIENTS": methods.Mixing,
    "OBJECTIVES": methods.Objective,
    "DEMANDS": methods.Objective,
    "SAMPLERS": methods.Sampler,
    "SOURCES": data.Source,
    "FILES": data.Source,
    "IMBALANCES": data.Imbalance,
}


def test_every_kind_that_params_may_name_is_in_its_table():
    found = [item for module in modules() for item in vars(module).items()]
    tables = {name: value for name, value in found if name in UNIONS and isinstance(value, dict)}
    assert {name: set(table) for name, table in tables.items()} == {
        name: set(get_args(get_args(union)[0])) for name, union in UNIONS.items()
    }


def reached() -> list[str]:
    """The files that any job needs."""
    names = {name.rsplit(".", 1)[0] for job in JOBS.values() for name in here().definitions(*job)}
    files = [
        file
        for file in FILES
        if any(name.startswith(file.removesuffix(".py").replace("/", ".")) for name in names)
    ]
    assert len(files) > 30
    return files


def test_stages_refer_to_definitions_only_by_name():
    """The digest follows names, so access by string is forbidden."""
    for file in reached():
        for node in ast.walk(ast.parse(FILES[file])):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in ("globals", "eval", "exec", "__import__", "importlib.import_module"), file
            hidden = isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.modules"
            forbidden = hidden or called.endswith("__subclasses__")
            assert not forbidden, file


def test_no_module_of_a_stage_runs_code_on_import():
    """Its top level holds only imports, definitions and types."""
    for file in reached():
        loose = here()._module("hlrs." + file.removesuffix(".py").replace("/", ".")).loose
        assert not loose, f"{file}:{loose[0].lineno}"


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


def test_a_commit_has_the_digest_of_its_checkout(small):
    def git(*arguments):
        names = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        done = subprocess.run(["git", *names, *arguments], cwd=small.parent, check=True, capture_output=True)
        return done.stdout.decode().strip()

    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "first")
    before, commit = code_digest("near", Params()), git("rev-parse", "HEAD")
    (small / "late.py").write_text("VALUE = 2\n")
    here.cache_clear()
    assert code_digest("near", Params()) != before
    then = committed(commit)
    assert then.digest("near", Params()) == before
    assert changed(then.definitions("near", Params()), here().definitions("near", Params())) == ["late.VALUE"]
    assert committed("0" * 40) is None
    assert committed(f"{commit[:12]} --output=x") is None
