"""Whatever a params file holds, the workflow's start ends in a sound plan or in one line."""

import pytest

from hlrs.config.params import load
from hlrs.errors import UserError
from tests.faults import mutate


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_mutants_of_the_shipped_params_end_in_a_plan_or_in_one_line(capfd):
    ended = [(kind, content, mutate.outcome(content)) for kind, content in mutate.mutants(150, seed=15)]
    assert [(kind, how, content) for kind, content, how in ended if how not in ("plan", "one line")] == []
    assert {how for _, _, how in ended} == {"plan", "one line"}
    assert {kind for kind, _, _ in ended} == set(mutate.MUTATIONS)
    assert capfd.readouterr() == ("", "")


def test_a_seed_always_makes_the_same_mutants():
    first, again, other = (list(mutate.mutants(20, seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_what_is_neither_a_plan_nor_one_line_is_found(monkeypatch):
    text = mutate.SHIPPED.read_bytes()
    assert mutate.outcome(text) == "plan"
    monkeypatch.setattr("hlrs.config.params.ENTRIES", 10**9)
    monkeypatch.setattr(mutate, "SECONDS", 0.01)
    assert mutate.outcome(text).startswith("too slow, then plan")
    monkeypatch.setattr("tests.faults.mutate.load", lambda path: [][0])
    assert "IndexError: list index out of range" in mutate.outcome(text)


LAUGHS = "a0: &a0 [x]\n" + mutate.LAUGHS
MERGES = "a0: &a0 {x: 1}\n" + mutate.MERGES


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[" * 3000, "nested too deeply"),
        (MERGES, "merges more than 10000 entries"),
        (LAUGHS + "matrix: *a11\n", "unknown key"),
        ("search: {epochs: 0x" + "f" * 5000 + "}\n", "a number of 5002 characters"),
        ("search: {epochs: 2001-99-99}\n", "month must be in 1..12"),
        ("# nothing\n", "is empty"),
        ("", "is empty"),
        ("matrix: {}\n".encode("utf-16"), "not UTF-8"),
        (b"\0", "not valid YAML"),
    ],
)
def test_a_malformed_file_is_one_short_line(tmp_path, content, said):
    path = tmp_path / "params.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as refused:
        load(path)
    assert said in str(refused.value)
    assert len(str(refused.value)) < 500


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    text = mutate.SHIPPED.read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8-sig")
    assert load(tmp_path / "params.yaml") == load(mutate.SHIPPED)


def test_a_file_that_never_ends_is_not_read_whole(tmp_path):
    (tmp_path / "params.yaml").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="longer than 10 MB"):
        load(tmp_path / "params.yaml")
