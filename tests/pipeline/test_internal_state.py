"""What a workflow keeps for itself: torn, edited, no file, on a full disk, shared by two checkouts."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from hlrs.artifacts.cache import Cache
from hlrs.artifacts.data_digest import Sha256
from hlrs.artifacts.jobs import (
    ASIDE,
    OUTPUTS,
    PROVENANCE,
    STATE,
    Job,
    ResultPath,
    key_of,
    load_spec,
)
from hlrs.artifacts.records import Record
from hlrs.errors import Failure, UserError
from hlrs.pipeline import cost_probe, dvc_experiments, locks, plan, slurm, slurm_commands
from hlrs.pipeline.cost_probe import Entry
from hlrs.pipeline.locks import LEASES, RUN, Holder, lease
from tests.conftest import REPOSITORY, result_files

JOB = Job("search", "d/m/0", {}, "", {}, "0123456789ab")
LEASE = LEASES / "0123456789ab.json"
DEEP = "[" * 100_000
ODD = {
    "empty": "",
    "blank": "\n",
    "NUL": "\0" * 300,
    "a list": "[]",
    "a number": "7",
    "not a number": "NaN",
    "nested": DEEP,
    "nested mapping": '{"token":' * 50_000,
    "a word": '"x"',
    "not UTF-8": "\udcff",
    "half a character": '{"token": "\\ud800"}',
    "a long number": "9" * 10_000,
}


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, seconds in (("POLL", 0.001), ("DEAD", 0.01), ("TORN", 0.001), ("PATIENCE", 5.0)):
        monkeypatch.setattr(locks, f"{name}_SECONDS", seconds)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(errors="surrogateescape"))


def own(**changes):
    """A lock's content that names this process."""
    facts = {"token": "another", "beat": 0, "host": "n7", "slurm_job": None, **locks._process(os.getpid())}
    return {**facts, **changes}


def put(path, **changes):
    write(path, json.dumps(own(**changes)))


def unreadable(folder):
    return [path for path in folder.iterdir() if path.name.endswith(".unreadable")]


# --- claims -------------------------------------------------------------------------------------------


def prune():
    """Hold the claim for a moment."""
    with locks.claimed("hlrs prune"):
        assert Holder.of(RUN.read_bytes()).pid == os.getpid()
    assert not RUN.exists()


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_a_claim_that_names_nobody_is_set_aside_with_one_line(text, capsys):
    write(RUN, text)
    prune()
    [aside] = unreadable(STATE)
    assert aside.read_bytes() == text.encode(errors="surrogateescape")
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"hlrs: {RUN}: unreadable, set aside as {aside.name}; ")


def test_a_claim_torn_at_any_byte_names_nobody(capsys):
    whole = json.dumps(own(born="1")).encode()
    assert Holder.of(whole) is not None
    for length in range(len(whole)):
        assert Holder.of(whole[:length]) is None
        RUN.parent.mkdir(parents=True, exist_ok=True)
        RUN.write_bytes(whole[:length])
        if length % 2:
            locks.unlock()
        else:
            prune()
        assert not RUN.exists()


WRONG = {
    "token": 1,
    "pid": "12",
    "machine": ["m"],
    "born": 1.5,
}


@pytest.mark.parametrize("field", WRONG)
def test_a_claim_whose_process_cannot_be_told_names_nobody(field):
    put(RUN, **{field: WRONG[field]})
    prune()
    assert len(unreadable(STATE)) == 1


@pytest.mark.parametrize("field", ["token", "pid", "machine", "born"])
def test_neither_does_one_that_lacks_a_field(field):
    facts = own()
    del facts[field]
    write(RUN, json.dumps(facts))
    locks.unlock()
    assert not RUN.exists()


SHOWN = {
    "since": ["yesterday", "", 1e300, None, [], "2026-13-45T99:00:00"],
    "group": ["1; reboot", 1, -7, None, [], 1.5],
    "command": [None, 7, ["snakemake"], "snakemake\n\x1b[31m"],
    "host": [None, 7, "n\n7"],
    "folder": [None, 7, {}],
    "slurm_job": [7, "4\n2"],
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in SHOWN.items() for v in values])
def test_odd_words_in_a_live_claim_still_protect_its_workflow(field, value):
    put(RUN, **{field: value})
    for entered in (locks.claim, prune, locks.unlock):
        with pytest.raises(Failure) as refused:
            entered()
        assert f"process {os.getpid()} on " in str(refused.value)
        assert str(refused.value).isprintable()
        assert field != "group" or "kill" not in str(refused.value)


def test_a_command_that_is_not_utf_8_is_protected_like_others():
    with locks.claimed(os.fsdecode(b"snakemake \xff ") + "é"), pytest.raises(Failure) as refused:
        prune()
    assert str(refused.value).startswith("snakemake ? é, process ")
    assert not RUN.exists()


def test_a_claim_without_its_birth_is_of_no_living_process():
    put(RUN, pid=2**22 + 1, born=None)  # above Linux's largest process id
    locks.unlock()
    put(RUN, pid=10**4000, born=None)
    prune()


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "dangling link"])
def test_what_is_no_file_in_the_place_of_a_claim_is_set_aside(kind):
    STATE.mkdir(parents=True)
    Path("target").write_text(json.dumps(own()))
    make_odd(RUN, kind)
    prune()
    make_odd(RUN, kind)
    locks.unlock()
    assert len(unreadable(STATE)) == 2
    assert Path("target").exists()


def make_odd(path, kind):
    if kind == "folder":
        (path / "inside").mkdir(parents=True)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(Path("target" if kind == "link" else "nowhere").resolve())


@pytest.mark.parametrize("place", ["results", "results/.hlrs", "results/.hlrs/leases"])
def test_a_file_in_the_place_of_a_folder_is_named(place):
    write(Path(place), "")
    with pytest.raises(Failure, match=f"^{STATE}/.*could not be written"), lease(JOB):
        pass


# --- leases -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_a_lease_that_names_nobody_is_taken_over(text):
    write(LEASE, text)
    with lease(JOB) as waited:
        assert waited
        assert Holder.of(LEASE.read_bytes()).pid == os.getpid()
    assert len(unreadable(LEASES)) == 1


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "dangling link"])
def test_what_is_no_file_in_the_place_of_a_lease_is_set_aside_and_kept(kind):
    LEASES.mkdir(parents=True)
    Path("target").write_text(json.dumps(own()))
    make_odd(LEASE, kind)
    with lease(JOB):
        assert Holder.of(LEASE.read_bytes()).pid == os.getpid()
    [aside] = unreadable(LEASES)
    assert kind != "folder" or (aside / "inside").is_dir()


def test_a_lease_torn_at_any_byte_does_not_stop_a_job():
    whole = json.dumps(own(born="1")).encode()
    LEASES.mkdir(parents=True)
    for length in range(0, len(whole), 5):
        LEASE.write_bytes(whole[:length])
        with lease(JOB):
            pass


def test_a_name_that_the_kernel_cuts_within_a_character_is_no_obstacle():
    """A process keeps 15 bytes of its name, and a dead holder's id may be a later process's."""
    name, put_off = Path("/proc/self/comm"), Path("/proc/self/comm").read_bytes()
    name.write_bytes("fourteen_bytesß".encode())
    try:
        with lease(JOB):
            assert locks.leased(JOB.key)
    finally:
        name.write_bytes(put_off)


def test_a_holder_that_ends_between_two_looks_was_waited_for(monkeypatch):
    creating, taken = locks.create, iter([True])
    monkeypatch.setattr(locks, "create", lambda *lock: not next(taken, False) and creating(*lock))
    with lease(JOB) as waited:
        assert waited


def test_a_lease_that_cannot_be_removed_does_not_fail_a_finished_job(monkeypatch):
    unlinking = Path.unlink

    def refuse(path, **options):
        if path == LEASE:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        unlinking(path, **options)

    monkeypatch.setattr(Path, "unlink", refuse)
    with lease(JOB):
        pass
    assert LEASE.exists()


def test_waiting_for_a_lease_rests_between_two_looks(monkeypatch):
    """A lease that is a folder kept a core busy for ever."""
    monkeypatch.setattr(locks, "DEAD_SECONDS", 0.2)
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.02)
    looks = []
    reading = locks.read
    monkeypatch.setattr(locks, "read", lambda path: looks.append(path) or reading(path))
    LEASE.mkdir(parents=True)
    with lease(JOB):
        pass
    assert len(looks) < 20


# --- full disks and other file systems ----------------------------------------------------------------


@pytest.fixture
def full(monkeypatch):
    """A disk without room for a byte; files can be created."""

    def no_room(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_room)


def test_a_full_disk_leaves_no_claim(full):
    for entered in (locks.claim, prune, lambda: lease(JOB).__enter__()):
        with pytest.raises(Failure, match="No space left on device"):
            entered()
    assert [path for path in Path("results").rglob("*") if not path.is_dir()] == []


@pytest.mark.skipif(os.getuid() != 0, reason="mounts")
def test_a_really_full_disk_leaves_no_claim(tmp_path):
    disk = tmp_path / "results"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("no mounts here")
    try:
        STATE.mkdir()
        with pytest.raises(OSError, match="No space left"):
            (disk / "filler").write_bytes(bytes(10**6))
        with pytest.raises(Failure, match=rf"^{RUN}: .*No space left on device"):
            prune()
        assert list(STATE.iterdir()) == []
        (disk / "filler").unlink()
        prune()
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.fixture
def without_links(monkeypatch):
    def refuse(source, target):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)


def test_without_hard_links_there_is_one_claim_all_the_same(without_links):
    prune()
    with locks.claimed("first"), pytest.raises(Failure, match=r"^first, process .* is running"):
        prune()
    with lease(JOB) as waited:
        assert not waited
    assert list(LEASES.iterdir()) == []


def test_without_hard_links_a_full_disk_leaves_no_claim_either(without_links, monkeypatch):
    reading = Path.read_bytes

    def no_room(path):
        if path.suffix == ".tmp":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return reading(path)

    monkeypatch.setattr(Path, "read_bytes", no_room)
    with pytest.raises(Failure, match="No space left on device"):
        prune()
    assert list(STATE.iterdir()) == []


def test_a_link_that_nfs_made_and_reports_as_refused_is_the_holders_own(monkeypatch):
    linking = os.link

    def twice(source, target):
        linking(source, target)
        raise FileExistsError

    monkeypatch.setattr(os, "link", twice)
    prune()


# --- two checkouts with one results/ ------------------------------------------------------------------


@pytest.fixture
def two(tmp_path):
    """Two folders whose results/ is a link to a third."""
    (tmp_path / "shared").mkdir()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results").symlink_to(tmp_path / "shared")
    return tmp_path / "a", tmp_path / "b"


PROGRAM = """
import sys
from hlrs.pipeline import locks
locks.claim()
print("claimed", flush=True)
sys.stdin.read()
"""


def test_a_workflow_in_one_checkout_is_seen_from_the_other(two, monkeypatch):
    a, b = two
    running = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=a,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert running.stdout.readline() == b"claimed\n"
    monkeypatch.chdir(b)
    for entered in (locks.claim, prune, locks.unlock):
        with pytest.raises(Failure) as refused:
            entered()
        assert f"process {running.pid} on " in str(refused.value)
        assert f"is running in {a} (the same results/) since 2" in str(refused.value)
    running.communicate()
    prune()


def test_a_job_in_one_checkout_is_waited_for_in_the_other(two, monkeypatch):
    a, b = two
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(locks, "DEAD_SECONDS", 60.0)
    monkeypatch.chdir(a)
    with lease(JOB):
        monkeypatch.chdir(b)
        with pytest.raises(Failure, match=f"still being written by process {os.getpid()}"), lease(JOB):
            pass
        assert locks.leased(JOB.key)
    assert not locks.leased(JOB.key)


def test_a_killed_workflows_own_lock_of_snakemake_goes_with_the_next_claim(two, monkeypatch):
    """The claim may have been cleared from the other checkout, which cannot know of the lock."""
    a, _ = two
    monkeypatch.chdir(a)
    monkeypatch.setattr(locks.atexit, "register", lambda *_: None)
    write(locks.SNAKEMAKE_LOCKS / "0.input.lock", "")
    locks.claim()
    assert not locks.SNAKEMAKE_LOCKS.exists()


def make(job, text="made"):
    for path in job.outputs:
        write(Path(path), text)


JOBS = [Job("extract", f"d/m/{seed}", {}, "", {}, f"{seed:012x}") for seed in range(2)]


def test_what_one_checkout_prunes_the_other_restores(two, monkeypatch):
    a, b = two
    first, second = JOBS
    monkeypatch.chdir(a)
    make(first)
    make(second)
    assert plan.prune([first], "extract") == [second.directory]
    assert not second.complete
    monkeypatch.chdir(b)
    plan.restore([second])
    assert [first.complete, second.complete] == [True, True]
    assert {str(path) for path in result_files()} == {*first.outputs, *second.outputs}


def test_prune_leaves_what_a_job_is_writing(two, monkeypatch):
    a, b = two
    monkeypatch.chdir(a)
    make(JOBS[0])
    with lease(JOBS[0]):
        monkeypatch.chdir(b)
        assert plan.prune([], "extract") == []
        assert JOBS[0].complete
    assert plan.prune([], "extract") == [JOBS[0].directory]


@pytest.mark.parametrize(("age", "kept"), [(0, True), (3600, False)])
def test_prune_leaves_what_a_job_of_another_host_was_writing_a_moment_ago(age, kept):
    make(JOBS[0])
    path = LEASES / f"{JOBS[0].key}.json"
    put(path, machine="another")
    os.utime(path, (time.time() - age,) * 2)
    assert plan.prune([], "extract") == ([] if kept else [JOBS[0].directory])


def test_state_is_no_result(two, monkeypatch):
    monkeypatch.chdir(two[0])
    make(JOBS[0])
    plan.prune([], "extract")
    with locks.claimed("x"), lease(JOB):
        assert result_files() == []
        assert not slurm_commands._made(JOBS[0].key)
    plan.restore(JOBS)
    assert slurm_commands._made(JOBS[0].key)


@pytest.mark.parametrize("odd", ["file", "folder", "link"])
def test_prune_replaces_whatever_lies_in_its_place(odd, tmp_path):
    make(JOBS[0])
    place = ASIDE / JOBS[0].directory
    write(tmp_path / "elsewhere" / "old", "")
    if odd == "link":
        place.parent.mkdir(parents=True)
        place.symlink_to(tmp_path / "elsewhere")
    else:
        write(place if odd == "file" else place / "old", "")
    plan.prune([], "extract")
    plan.restore(JOBS)
    assert {path.name for path in JOBS[0].directory.iterdir()} == {*OUTPUTS["extract"], PROVENANCE}
    assert (tmp_path / "elsewhere" / "old").exists()


def full_after_one_file():
    """A `shutil.copyfile` that can copy but one file."""
    copies = iter([shutil.copyfile])

    def copy(*paths, **how):
        for once in copies:
            return once(*paths, **how)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return copy


@pytest.mark.parametrize("move", [plan.prune, plan.restore])
def test_a_move_to_another_file_system_that_fails_halfway_leaves_the_result_whole(move, monkeypatch):
    [job, _] = JOBS
    make(job)
    with TemporaryDirectory(dir="/dev/shm") as memory:
        assert Path(memory).stat().st_dev != Path().stat().st_dev
        ASIDE.parent.mkdir(parents=True)
        ASIDE.symlink_to(memory)
        source, target, arguments = job.directory, ASIDE / job.directory, ([], "extract")
        if move is plan.restore:
            plan.prune(*arguments)
            source, target, arguments = target, source, (JOBS,)
        with monkeypatch.context() as full:
            full.setattr(shutil, "copyfile", full_after_one_file())
            with pytest.raises(Failure, match=r"could not be written: .*No space left"):
                move(*arguments)
        assert len([*source.iterdir()]) == len(job.outputs)
        assert not any(target.parent.iterdir())
        move(*arguments)
        assert not source.exists()
        assert [path.name for path in target.parent.iterdir()] == [job.key]
        assert len([*target.iterdir()]) == len(job.outputs)


# --- caches -------------------------------------------------------------------------------------------


SHA = "a" * 64
CACHES = {
    "digests": (tuple[int, int, Sha256], {"/d/x.png": (3, 5, SHA)}),
    "contents": (Sha256, {"seen": SHA}),
    "calibration": (
        dict[str, Entry],
        {"name": {"CPU": Entry(gpu=False, steps=5, paces={1: (9, 0.5)}, date="2026-01-01", waited=0.25)}},
    ),
}


@pytest.fixture(params=CACHES.values(), ids=CACHES)
def cache(request):
    entry, known = request.param
    cache = Cache(Path(".hlrs/cache.json"), entry)
    cache.write(known)
    assert cache.read() == known
    return cache


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_a_cache_with_anything_else_in_it_is_made_again(cache, text, capsys):
    known = cache.read()
    write(cache.path, text)
    assert cache.read() == {}
    [aside] = unreadable(cache.path.parent)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"hlrs: {cache.path}: unreadable, set aside as {aside.name}; ")
    cache.write(known)
    assert cache.read() == known


def test_a_cache_torn_at_any_byte_is_made_again(cache):
    whole = cache.path.read_bytes()
    for length in range(len(whole.rstrip())):
        cache.path.write_bytes(whole[:length])
        assert cache.read() == {}


def test_a_cache_with_one_bit_flipped_is_made_again(cache):
    """Whatever JSON it makes; blanks alone do not matter."""
    whole = cache.path.read_bytes()
    blanks = b" \n"
    for place in range(len(whole)):
        if whole[place] not in blanks:
            cache.path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert cache.read() == {}, place


@pytest.mark.parametrize("value", [None, 1, "x", [], {}, [3, 5, 7], [3, 5, "short"], [3.5, 5, SHA], {"a": 1}])
def test_an_entry_of_another_type_is_not_believed(cache, value):
    digest, _ = json.loads(cache.path.read_bytes())
    write(cache.path, json.dumps([digest, {"/d/x.png": value}]))
    assert cache.read() == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"steps": 10**30},
        {"gpu": "yes"},
        {"date": "yesterday"},
        {"paces": {"1": [9, 0.0]}},
        {"paces": {"1": [9, float("nan")]}},
        {"paces": {"1": [9, 1e308]}},
        {"paces": {"one": [9, 0.5]}},
        {"paces": [[9, 0.5]]},
        {"waited": 1.5},
    ],
)
def test_an_absurd_measurement_is_not_believed(changes):
    cache = Cache(cost_probe.MEMORY, dict[str, Entry])
    entry = {"gpu": False, "steps": 5, "paces": {"1": [9, 0.5]}, "date": "2026-01-01", "waited": 0.25}
    cache.write(
        {"name": {"CPU": Entry(gpu=False, steps=5, paces={1: (9, 0.5)}, date="2026-01-01", waited=0.25)}}
    )
    digest, known = json.loads(cache.path.read_bytes())
    assert known["name"]["CPU"] == entry
    write(cache.path, json.dumps([digest, {"name": {"CPU": entry | changes}}]))
    assert cache.read() == {}


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_in_the_place_of_a_cache_is_set_aside(cache, kind):
    known = cache.read()
    cache.path.unlink()
    make_odd(cache.path, kind)
    assert cache.read() == {}
    cache.write(known)
    assert cache.read() == known


def test_a_cache_that_cannot_be_kept_costs_no_start(cache, full):
    known = cache.read()
    cache.path.unlink()
    cache.write(known)
    assert list(cache.path.parent.iterdir()) == []
    shutil.rmtree(".hlrs")
    write(Path(".hlrs"), "")
    cache.write(known)
    assert cache.read() == {}


# --- records, specs, submissions ----------------------------------------------------------------------


RECORD = {
    "key": "0123456789ab",
    "stage": "extract",
    "run": "d/m/0",
    "params": {"genotype": None},
    "code": "1",
    "inputs": {"alphas": {"path": "results/search/d/m/0/4567/alphas.parquet", "sha256": "89"}},
    "outputs": {"genotype.json": "ab"},
    "ended": "2026-01-01T00:00:00+00:00",
    "seal": "",
}


def nest(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_an_odd_record_is_a_failure_that_names_it(text):
    write(Path("record"), text)
    with pytest.raises(Failure, match=r"^record: "):
        Record.read(Path("record"))


def test_a_record_torn_at_any_byte_is_a_failure():
    whole = json.dumps(RECORD).encode()
    for length in range(len(whole)):
        Path("record").write_bytes(whole[:length])
        with pytest.raises(Failure):
            Record.read(Path("record"))


ODD_FIELDS = {
    "deep params": {"params": {"x": nest(300)}},
    "deeper params": {"params": {"x": nest(900)}},
    "params": {"params": []},
    "input outside": {"inputs": {"a": {"path": "/etc/passwd", "sha256": "89"}}},
    "input above": {"inputs": {"a": {"path": "results/search/d/m/0/4/../../../../../../x", "sha256": "8"}}},
    "output outside": {"outputs": {"/etc/passwd": "ab"}},
    "output above": {"outputs": {"../../x": "ab"}},
    "run above": {"run": "../../.."},
    "run outside": {"run": "/etc/m/0"},
    "key above": {"key": ".."},
    "another stage": {"stage": "train"},
    "gpu without name": {"gpu": {}},
    "throughput without seconds": {"throughput": [{"epoch": 0}]},
    "throughput of words": {"throughput": [{"epoch": "0", "seconds": 1.0, "images_per_second": 1.0}]},
    "throughput below 0": {"throughput": [{"epoch": -1, "seconds": 1.0, "images_per_second": 1.0}]},
    "endless": {"seconds": 1e400},
    "startup of words": {"startup": {"imports_seconds": "x"}},
}


@pytest.mark.parametrize("changes", ODD_FIELDS.values(), ids=ODD_FIELDS)
def test_a_record_with_an_odd_field_is_a_failure(changes):
    assert Record.parse(RECORD, "record").body() == RECORD
    write(Path("record"), json.dumps(RECORD | changes))
    with pytest.raises(Failure, match=r"^record: (not the record of a job$|truncated or not JSON)"):
        Record.read(Path("record"))


SPEC = {"stage": "extract", "run": "d/m/0", "params": {}, "code": "1", "inputs": {}, "key": "0123456789ab"}


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "../../../x"},
        {"run": "/tmp/x/y"},
        {"key": "../../x"},
        {"key": "/x"},
        {"stage": "../x"},
        {"inputs": {"alphas": "/etc/passwd"}},
        {"inputs": {"alphas": "../../etc/passwd"}},
        {"inputs": {"alphas": "results/search/d/m/0/1234/../../../../../../../etc/passwd"}},
        {"inputs": []},
        {"run": 7},
    ],
    ids=str,
)
def test_a_spec_that_leads_elsewhere_is_refused_in_one_line(changes):
    assert load_spec(forged()).directory.parent == Path("results/extract/d/m/0")
    path = forged(**changes)
    with pytest.raises(UserError, match=rf"^{path}: ") as refused:
        load_spec(path)
    assert "\n" not in str(refused.value)


def forged(**changes):
    """A spec under the key that its content has."""
    body = {name: value for name, value in (SPEC | changes).items() if name != "key"}
    path = Path(f"{key_of(body)}.json")
    write(path, json.dumps({"key": path.stem, **body, **{n: v for n, v in changes.items() if n == "key"}}))
    return path


def test_no_path_of_a_result_leads_elsewhere():
    for parts in (("search", "..", "k"), ("search", "/d", "k"), ("search", "d/m/0", "k", "../x")):
        with pytest.raises(UserError, match="leads out of results/"):
            ResultPath(*parts)
    with pytest.raises(UserError, match="results/"):
        ResultPath.parse("results/search/d/m/../k/x")


@pytest.mark.parametrize(
    "line",
    [
        '{"job": 7, "key": "0123456789ab"}',
        '{"job": "../x", "key": "0123456789ab"}',
        '{"job": "7", "key": "../../x"}',
        '{"job": "7", "key": ["x"]}',
        '{"job": "7"}',
        DEEP,
        "\udcff",
        "[]",
        "7",
    ],
)
def test_an_odd_line_among_the_submissions_is_passed_over(line):
    good = '{"job": "8", "key": "0123456789ab"}'
    write(slurm_commands.RECORDS / "run.jsonl", f"{good}\n{line}\n")
    (slurm_commands.RECORDS / "folder.jsonl").mkdir()
    assert slurm_commands.submissions(Path()) == [("8", "0123456789ab")]


# --- environment variables ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["../../x", "/tmp/x", "7/../8", "7;", "x"])
def test_a_slurm_job_that_is_no_number_is_refused(number, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", number)
    for entered in (slurm.request_requeue, slurm.serve_job):
        with pytest.raises(UserError, match=r"^SLURM_JOB_ID="):
            entered()
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("variable", ["SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"])
def test_a_task_of_an_array_that_is_no_number_is_refused(variable, monkeypatch):
    numbers = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1", variable: "../x"}
    for name, number in numbers.items():
        monkeypatch.setenv(name, number)
    with pytest.raises(UserError, match=f"^{variable}="):
        slurm.request_requeue()
    assert list(Path().iterdir()) == []


def test_dvcs_root_is_this_checkout_or_that_of_its_experiment(tmp_path, monkeypatch):
    make(JOBS[0])
    for root in (tmp_path / "elsewhere", tmp_path.parent, Path("/")):
        monkeypatch.setenv("DVC_ROOT", str(root))
        for entered in (lambda: dvc_experiments.fetch(JOBS), lambda: dvc_experiments.shelve(JOBS, 0.0)):
            with pytest.raises(UserError, match=r"^DVC_ROOT="):
                entered()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    dvc_experiments.shelve(JOBS, 0.0)
    experiment = tmp_path / ".dvc/tmp/exps/one"
    experiment.mkdir(parents=True)
    monkeypatch.chdir(experiment)
    dvc_experiments.fetch(JOBS)
    assert JOBS[0].complete
