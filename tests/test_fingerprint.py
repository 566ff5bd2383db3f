"""Digests: what counts as a change of a stage's code and of a data set's bytes, and what does not."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from hlrs import config, fingerprint
from hlrs.errors import UserError
from hlrs.fingerprint import code_digest, content_digest

STAGES = ("split", "search", "extract", "retrain", "evaluate", "report")
CACHED = (fingerprint.code_digest, fingerprint._parsed, fingerprint._imports, fingerprint._module_digest)

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
    for function in CACHED:
        function.cache_clear()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package that the digests are taken of."""
    copy = tmp_path / "hlrs"
    shutil.copytree(fingerprint.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprint, "PACKAGE", copy)
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
    monkeypatch.setattr(fingerprint, "PACKAGE", tmp_path / "hlrs")
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


# --- code ---------------------------------------------------------------------------------------------


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
        "charts.py": {"report"},
    }.items():
        file = package / path
        file.write_text(replaced("return ", "return 0 or ")(file.read_text()))
        after = digests(STAGES)
        assert {stage for stage in STAGES if before[stage] != after[stage]} == stages
        before = after


def test_neither_the_workflow_around_the_stages_nor_the_declarations_count(package):
    before = digests(STAGES)
    for name in ("plan.py", "cli.py", "provenance.py", "fingerprint.py", "workflow.py", "config.py"):
        with (package / name).open("a") as file:
            file.write("\nMORE = 1\n")
    assert digests(STAGES) == before


def test_the_template_of_the_report_counts(package):
    template = package / "page.html.j2"
    assert changed_by(template, replaced("<h1", "<h1 "), ("report",)) == {"report"}


# --- data ---------------------------------------------------------------------------------------------


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/train.parquet").write_bytes(b"some bytes")
    return tmp_path


def parquet(*train, test=()):
    return config.Parquet(kind="parquet", train=list(train) or ["data/train.parquet"], test=list(test))


def test_changed_bytes_change_the_digest(workspace):
    before = content_digest(parquet())
    Path("data/train.parquet").write_bytes(b"same size!")
    os.utime("data/train.parquet", ns=(0, 0))
    assert content_digest(parquet()) != before


def test_the_digest_is_that_of_names_within_the_source_and_bytes(workspace):
    once = hashlib.sha256(b"some bytes").hexdigest()
    assert content_digest(parquet()) == hashlib.sha256(f"train/0 {once}".encode()).hexdigest()
    Path("elsewhere").mkdir()
    shutil.copyfile("data/train.parquet", "elsewhere/other.parquet")
    assert content_digest(parquet("elsewhere/other.parquet")) == content_digest(parquet())


def test_order_and_part_of_the_files_count(workspace):
    Path("data/b.parquet").write_bytes(b"other bytes")
    a, b = "data/train.parquet", "data/b.parquet"
    found = {content_digest(s) for s in (parquet(a, b), parquet(b, a), parquet(a, test=[b]), parquet(a))}
    assert len(found) == 4


def test_an_unchanged_file_is_not_read_again(workspace):
    first = content_digest(parquet())
    times = Path("data/train.parquet").stat()
    Path("data/train.parquet").write_bytes(b"OTHER BYTE")  # what a second reading would see
    os.utime("data/train.parquet", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert content_digest(parquet()) == first


def test_a_touched_file_is_read_again_and_keeps_its_digest(workspace):
    first = content_digest(parquet())
    os.utime("data/train.parquet", ns=(5, 5))
    assert content_digest(parquet()) == first


@pytest.mark.parametrize("memory", ["", "{", "\x00"])
def test_a_broken_memory_is_forgotten(workspace, memory):
    first = content_digest(parquet())
    fingerprint.MEMORY.write_text(memory)
    assert content_digest(parquet()) == first


def test_the_pointer_of_dvc_answers_for_the_file(workspace):
    Path("data/train.parquet.dvc").write_text("outs:\n- md5: 0123abc\n  path: train.parquet\n")
    expected = hashlib.sha256(b"train/0 0123abc").hexdigest()
    assert content_digest(parquet()) == expected
    Path("data/train.parquet").unlink()  # as in a fresh clone, before `dvc pull`
    assert content_digest(parquet()) == expected


def test_the_pointer_of_dvc_answers_for_a_folder(workspace):
    Path("data/images.dvc").write_text("outs:\n- md5: 77ff.dir\n  path: images\n")
    source = config.ImageFolder(kind="image_folder", train="data/images")
    assert content_digest(source) == hashlib.sha256(b"train 77ff.dir").hexdigest()


def test_a_folder_is_its_images_by_name(workspace):
    for name in ("a/1.png", "b/2.JPG", "b/notes.txt"):
        path = Path("data/images", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    source = config.ImageFolder(kind="image_folder", train="data/images")
    before = content_digest(source)
    Path("data/images/b/notes.txt").write_text("not an image")
    assert content_digest(source) == before
    Path("data/images/b/2.JPG").rename("data/images/a/2.JPG")  # the same bytes, of another class
    assert content_digest(source) != before


def test_torchvisions_files_are_known_by_name(workspace):
    found = {
        content_digest(config.Torchvision(kind="torchvision", name=n, root=r))
        for n, r in (("cifar10", "x"), ("cifar10", "y"), ("cifar100", "x"))
    }
    assert len(found) == 2


def test_digits_come_with_scikit_learn(workspace):
    assert content_digest(config.Digits(kind="digits")) == content_digest(config.Digits(kind="digits"))
    assert not Path("data/digits").exists()


@pytest.mark.parametrize(
    "source",
    [parquet("data/none.parquet"), config.ImageFolder(kind="image_folder", train="data/none")],
    ids=["file", "folder"],
)
def test_a_missing_file_is_one_line_that_names_it(workspace, source):
    with pytest.raises(UserError, match=r"^data/none.*: (No such file|no such folder)") as caught:
        content_digest(source)
    assert "\n" not in str(caught.value)


def test_a_folder_without_images_is_refused(workspace):
    with pytest.raises(UserError, match="holds no images"):
        content_digest(config.ImageFolder(kind="image_folder", train="data"))
