"""Every exit of the command line and of the Snakefile's start is one line that says where a traceback is."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from hlrs.errors import Failure, Interrupted, UserError
from hlrs.pipeline import snakemake
from tests.test_cli import complaint

UNFORESEEN = {
    ValueError("two\nlines"): "unforeseen ValueError: two lines; please report this bug",
    pa.ArrowInvalid("not a file"): "unforeseen ArrowInvalid: not a file; please",
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"): "unforeseen UnicodeDecodeError: 'utf-8' codec",
    RecursionError("maximum depth"): "unforeseen RecursionError: maximum depth",
    OSError(28, "No space left on device", "results/a"): "results/a: No space left on device",
    MemoryError(): "out of memory; lower batch_size",
    RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"): "out of memory; lower batch_size",
}
FORESEEN = {
    UserError("params.yaml: wrong"): (2, "params.yaml: wrong"),
    Failure("broken\nfile"): (1, "broken file"),
    Interrupted("state saved", "SIGTERM"): (75, "state saved"),
    KeyboardInterrupt(): (1, "interrupted"),
}


def raising(error):
    def function(*arguments, **options):
        raise error

    return function


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_what_nobody_foresaw_is_one_line_and_leaves_its_traceback(monkeypatch, error):
    monkeypatch.setattr("hlrs.config.params.load", raising(error))
    line = complaint("plan", status=1)
    assert line.startswith(UNFORESEEN[error])
    kept = Path(re.search(r"\(traceback in (\.hlrs/errors/\S+\.txt)\)$", line)[1]).read_text()
    assert "Traceback (most recent call last)" in kept
    assert "in show_plan" in kept


@pytest.mark.parametrize("error", FORESEEN, ids=lambda error: type(error).__name__)
def test_a_foreseen_end_keeps_its_status_and_leaves_no_file(monkeypatch, error):
    monkeypatch.setattr("hlrs.config.params.load", raising(error))
    status, line = FORESEEN[error]
    assert complaint("plan", status=status) == line
    assert list(Path().iterdir()) == []


def test_a_traceback_that_the_folder_cannot_take_goes_to_the_temporary_one(monkeypatch, tmp_path):
    Path(".hlrs").write_text("a file in the way")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr("hlrs.config.params.load", raising(ValueError("x")))
    place = re.search(r"traceback in (\S+)\)$", complaint("plan", status=1))[1]
    assert Path(place).parent == tmp_path / "tmp" / "hlrs-errors"
    assert "ValueError: x" in Path(place).read_text()


def test_a_mistyped_command_is_still_clicks_own_message():
    done = subprocess.run([sys.executable, "-m", "hlrs", "plann"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "No such command 'plann'" in done.stderr


def workflow():
    return SimpleNamespace(
        is_main_process=True,
        output_settings=SimpleNamespace(dryrun=True),
        deployment_settings=SimpleNamespace(deployment_method=[]),
    )


@pytest.mark.parametrize("error", [*UNFORESEEN, *FORESEEN], ids=lambda error: type(error).__name__)
def test_the_snakefiles_start_ends_in_one_line_too(monkeypatch, capsys, error):
    monkeypatch.setattr(snakemake, "load", raising(error))
    with pytest.raises(SystemExit) as ended:
        snakemake.start({}, workflow())
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (2, 1)
    assert said.startswith("hlrs: ")


@pytest.mark.parametrize(
    ("given", "shown"), [(None, "params=:"), ([1], "params=[1]:"), (True, "params=True:")]
)
def test_a_params_file_without_a_name_is_one_line(capsys, given, shown):
    with pytest.raises(SystemExit):
        snakemake.start({"params": given}, workflow())
    assert capsys.readouterr().err == f"hlrs: --config {shown} not a file's name; write one\n"


def test_a_params_file_whose_name_is_a_number_is_read(capsys):
    with pytest.raises(SystemExit):
        snakemake.start({"params": 2027}, workflow())
    assert capsys.readouterr().err.startswith("hlrs: 2027: No such file or directory")
