"""What counts as a change of a stage's code, what does not, and which definitions changed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from hlrs import code
from hlrs.code import code_digest

STAGES = ("split", "search", "extract", "retrain", "evaluate", "report")
INNER = '''"""The docstring of the module."""


def inner(weights, a, b, x, y):
    """The docstring of the function (§2.4)."""
    best = weights[:, 1:].max(-1)
    if a < b:
        return len(best), False, None
    return x + y, "text"
'''
SMALL = {  # near reaches inner through far, and late inside a function
    "stages/near.py": "from hlrs.far import outer\n\nRESULT = outer()\n",
    "stages/apart.py": "import json\n\nRESULT = json\n",
    "far.py": "from hlrs import errors\nfrom hlrs.deep import inner as module\n\nouter = module.inner\n",
    "deep/inner.py": INNER
    + "\n\ndef more():\n    import hlrs.late\n    from hlrs.config import A\n    return A\n",
    "late.py": "VALUE = 1\n",
    "config.py": "A = 1\n",
    "errors.py": "B = 1\n",
    "unused.py": "C = 1\n",
}


def forget():
    code.here.cache_clear()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package that the digests are taken of."""
    copy = tmp_path / "hlrs"
    shutil.copytree(code.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGE", copy)
    forget()
    yield copy
    forget()


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A package of a few lines with the stages `near` and `apart`."""
    for name, text in SMALL.items():
        path = tmp_path / "hlrs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "hlrs")
    forget()
    yield tmp_path / "hlrs"
    forget()


def digests(stages):
    forget()
    return {stage: code_digest(stage) for stage in stages}


def changed_by(path: Path, change, stages=("near", "apart")) -> set[str]:
    """The stages whose digest changes with the text of a file; the change must change the text."""
    before, text = digests(stages), path.read_text()
    edited = change(text)
    assert edited != text
    path.write_text(edited)
    after = digests(stages)
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
        lambda text: text + '\n"""A string that acts on nothing."""\n',
        replaced("(weights, a, b, x, y)", "(\n    weights, a,  # two\n    b, x, y,\n)"),
        replaced("(§2.4)", "(§2.5)"),
        replaced("The docstring of the module", "Other words"),
        replaced('"text"', "'text'"),
    ],
    ids=["comment", "bare string", "layout", "docstring", "module docstring", "quotes"],
)
def test_comments_docstrings_and_layout_do_not_count(small, change):
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
    inner.write_text(INNER.replace("y)", "y=3)"))
    assert changed_by(inner, replaced(old, new)) == {"near"}


def test_a_digest_is_the_same_twice_and_differs_between_stages(small):
    first = digests(("near", "apart"))
    assert digests(("near", "apart")) == first
    assert first["near"] != first["apart"]


def test_imports_inside_functions_count(small):
    assert changed_by(small / "late.py", replaced("1", "2")) == {"near"}


@pytest.mark.parametrize("name", ["config.py", "errors.py", "unused.py"])
def test_declarations_and_what_nothing_imports_do_not_count(small, name):
    assert changed_by(small / name, replaced("1", "2")) == set()


def test_moving_code_to_another_module_counts(small):
    before = digests(("near",))
    (small / "deep" / "inner.py").rename(small / "deep" / "moved.py")
    far = small / "far.py"
    far.write_text(far.read_text().replace("import inner as", "import moved as"))
    assert digests(("near",)) != before


def test_a_change_counts_for_the_stages_that_import_it_and_no_other(package):
    before = digests(STAGES)
    assert len(set(before.values())) == len(STAGES)
    for path, stages in {
        "longtail/metrics.py": {"evaluate"},
        "data/batches.py": {"search", "retrain", "evaluate"},  # through stages.parts
        "report/charts.py": {"report"},
    }.items():
        file = package / path
        file.write_text(replaced("return ", "return 0 or ")(file.read_text()))
        after = digests(STAGES)
        assert {stage for stage in STAGES if before[stage] != after[stage]} == stages
        before = after


def test_neither_the_workflow_around_the_stages_nor_the_declarations_count(package):
    before = digests(STAGES)
    for name in ("plan.py", "cli.py", "provenance.py", "reasons.py", "workflow.py", "config.py"):
        with (package / name).open("a") as file:
            file.write("\nMORE = 1\n")
    assert digests(STAGES) == before


def test_the_template_of_the_report_counts(package):
    template = package / "report" / "page.html.j2"
    assert changed_by(template, replaced("<h1", "<h1 "), ("report",)) == {"report"}


def test_changed_definitions_are_named(small):
    before = code.here().definitions("near")
    assert set(before) == {"stages.near", "far", "deep.inner.inner", "deep.inner.more", "late"}
    (small / "deep" / "inner.py").write_text(
        INNER.replace("x + y", "y + x")
        + '\n\nclass Added:\n    """Words."""\n\n    def act(self):\n        pass\n'
    )
    forget()
    assert code.changed(before, code.here().definitions("near")) == [
        "deep.inner.Added.act (new)",
        "deep.inner.inner",
        "deep.inner.more (gone)",
        "late (gone)",
    ]


def test_the_code_of_a_commit_has_the_digest_that_it_had_in_the_checkout(small):
    def git(*arguments):
        names = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        done = subprocess.run(["git", *names, *arguments], cwd=small.parent, check=True, capture_output=True)
        return done.stdout.decode().strip()

    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "first")
    before, commit = code_digest("near"), git("rev-parse", "HEAD")
    (small / "late.py").write_text("VALUE = 2\n")
    forget()
    assert code_digest("near") != before
    then = code.committed(commit)
    assert then.digest("near") == before
    assert code.changed(then.definitions("near"), code.here().definitions("near")) == ["late"]
    assert code.committed("0" * 40) is None
    assert code.committed(f"{commit[:12]} --output=x") is None
