"""`hlrs profile slurm`: what SLURM's listings mean, what is chosen, and the profile as Snakemake reads it."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from snakemake.cli import parse_args
from snakemake_executor_plugin_slurm.utils import set_gres_string

from hlrs.errors import UserError
from hlrs.pipeline import slurm_profile as profiles
from hlrs.pipeline.gpus import GPU_STAGES
from hlrs.pipeline.slurm_profile import (
    Choice,
    Cluster,
    Partition,
    choose,
    gpu_types,
    merge,
    minutes,
)
from tests.standins import Commands
from tests.test_cli import complaint, run

# --- listings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "expected"),
    [  # sinfo(1) %l: [days-]hours:minutes:seconds or "infinite"; sbatch(1) --time for the rest
        ("infinite", None),
        ("UNLIMITED", None),
        ("n/a", None),
        ("", None),
        ("10", 10),
        ("30:00", 30),
        ("1:30", 1),
        ("2:00:00", 120),
        ("12:34:56", 754),
        ("1-00", 1440),
        ("1-12:30", 2190),
        ("1-00:00:00", 1440),
        ("2-12:30:00", 3630),
        ("30-00:00:00", 43_200),
        ("365-00:00:00", 525_600),
    ],
)
def test_minutes_of_a_time_limit(limit, expected):
    assert minutes(limit) == expected


@pytest.mark.parametrize(
    ("gres", "types"),
    [
        ("(null)", set()),
        ("", set()),
        ("gpu:4", {""}),
        ("gpu", {""}),
        ("gpu:2(S:0-1)", {""}),
        ("gpu:a100", {"a100"}),  # of a node that has not registered
        ("gpu:a100:4", {"a100"}),
        ("gpu:a100:no_consume:4", {"a100"}),
        ("gpu:a100:4(S:0-1)", {"a100"}),
        ("gpu:a100_3g.20gb:2,shard:8", {"a100_3g.20gb"}),
        ("gpu:v100:2(S:0),gpu:t4:1", {"v100", "t4"}),
        ("gpu:v100:2(S:0,2),gpu:t4:1(S:1)", {"v100", "t4"}),
        ("shard:8(S:0,1),gpu:nvidia_a100-sxm4-80gb:8(S:0,1)", {"nvidia_a100-sxm4-80gb"}),
        ("gpu:1080:4", {"1080"}),
        ("lscratch:800G,gpu:p100:4,nic:2", {"p100"}),
        ("gpumem:80G,mps:400", set()),
    ],
)
def test_types_of_gpus_in_a_gres(gres, types):
    assert gpu_types(gres) == types


def test_lines_of_a_partition_are_merged():
    """sinfo prints a line for each combination of a partition's columns."""
    listing = (
        "batch*|up|2|no|2-00:00:00|(null)\n"
        "batch*|up|2|no|2-00:00:00|gpu:a100:4(S:0-1)\n"
        "batch*|up|2|no|2-00:00:00|gpu:v100:2\n"
        "long|up|2|no|infinite|(null)\n"
        "old|down|2|no|1:00:00|gpu:1\n"
        "drained|drain|2|no|1:00:00|(null)\n"
        "empty|up|0|no|infinite|(null)\n"
        "root|up|2|yes|infinite|gpu:1\n"
    )
    assert merge(listing) == [
        Partition("batch", True, True, 2880, frozenset({"a100", "v100"})),
        Partition("long", False, True, None, frozenset()),
        Partition("old", False, False, 60, frozenset({""})),
        Partition("drained", False, False, 60, frozenset()),
        Partition("empty", False, False, None, frozenset()),
        Partition("root", False, False, None, frozenset({""})),
    ]
    assert merge("") == []


# --- choices ------------------------------------------------------------------------------------------

CPU = Partition("cpu", True, True, 2880, frozenset())
LONG = Partition("long", False, True, None, frozenset())
GPU = Partition("gpu", False, True, 1440, frozenset({"a100", "v100"}))
SHORT = Partition("short", False, True, 60, frozenset({"a100"}))
ENDLESS = Partition("endless", False, True, None, frozenset({"a100"}))
PLAIN = Partition("plain", False, True, 600, frozenset({""}))
DOWN = Partition("down", False, False, None, frozenset({"a100"}))
BOTH = Partition("both", True, True, 2880, frozenset({"a100"}))


def cluster(*partitions, accounting=False):
    return Cluster("hpc", "22.05.8", list(partitions), accounting)


def names(of, **choice):
    return tuple(p and p.name for p in choose(cluster(*of), Choice(**choice)))


@pytest.mark.parametrize(
    ("partitions", "choice", "expected"),
    [
        # (of the rules with a GPU, of the others)
        ([CPU], {}, (None, "cpu")),
        ([CPU, LONG], {}, (None, "cpu")),  # the default one, though another has more time
        ([LONG, CPU, SHORT, GPU], {}, ("gpu", "cpu")),  # more time than the short one
        ([CPU, ENDLESS, GPU], {}, ("endless", "cpu")),  # more time than any
        ([BOTH], {}, ("both", "both")),
        ([GPU, BOTH], {}, ("both", "both")),
        ([BOTH, LONG], {}, ("both", "long")),  # CPU rules avoid nodes with GPUs
        ([CPU, DOWN, SHORT], {}, ("short", "cpu")),
        ([CPU, DOWN], {}, (None, "cpu")),
        ([DOWN], {}, ("down", "down")),
        ([CPU, PLAIN], {}, ("plain", "cpu")),
        ([CPU, GPU], {"partitions": ("gpu",)}, ("gpu", "gpu")),
        ([CPU, GPU], {"partitions": ("cpu",)}, (None, "cpu")),
        ([CPU, LONG, GPU], {"partitions": ("long", "gpu")}, ("gpu", "long")),
        ([CPU, LONG, GPU], {"partitions": ("gpu", "long")}, ("gpu", "long")),
        ([CPU, DOWN], {"partitions": ("down",)}, ("down", "down")),  # because it was requested by name
        ([CPU, SHORT, GPU], {"gpu_type": "v100"}, ("gpu", "cpu")),
        ([CPU, SHORT, GPU], {"gpu_type": "a100", "partitions": ("short",)}, ("short", "short")),
        ([CPU, PLAIN, SHORT], {"gpu_type": "a100"}, ("short", "cpu")),
    ],
)
def test_chosen_partitions(partitions, choice, expected):
    assert names(partitions, **choice) == expected


@pytest.mark.parametrize(
    ("choice", "facts"),
    [
        ({"partitions": ("gpus",)}, ("--partition gpus: ", "hpc", "cpu, gpu, down, plain")),
        ({"partitions": ("cpu", "x")}, ("--partition x: ", "hpc", "cpu, gpu, down, plain")),
        ({"gpu_type": "h100"}, ("--gpu-type h100: ", "hpc", "a100, v100")),
        ({"gpu_type": "a100", "partitions": ("cpu",)}, ("--gpu-type a100: ", "cpu;", "none")),
        ({"gpu_type": "a100", "partitions": ("cpu", "plain")}, ("--gpu-type a100: ", "cpu, plain;", "none")),
    ],
)
def test_what_the_cluster_does_not_have_is_named(choice, facts):
    with pytest.raises(UserError) as refused:
        names([CPU, GPU, DOWN, PLAIN], **choice)
    for fact in facts:
        assert fact in str(refused.value)


# --- the profile as Snakemake reads it ----------------------------------------------------------------


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty current folder, and another for the user's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def read(cluster_, **choice):
    """The arguments that Snakemake takes from the profile."""
    profiles.write(cluster_, Choice(**choice), Path("slurm"), force=True)
    return parse_args(["--profile", "slurm"])[1]


def resources(found):
    """Resources as a job gets them: their expressions evaluated by Snakemake."""
    evaluated = {
        name: r.evaluate(wildcards={}, input=[], attempt=1, threads=1, rulename="r", async_run=None)
        for name, r in found.items()
        if name not in ("tmpdir", "disk_mb", "mem_mb")
    }
    return {name: resource.value for name, resource in evaluated.items()}


AWKWARD = ["all", "open", "123", "007", "1e3", "a-b", "max", "None", "true", "input", "a.b", "8GB", "o'neill"]


@pytest.mark.parametrize("name", AWKWARD)
def test_names_arrive_unchanged(name):
    """Snakemake evaluates resources as Python; `max`, `123` or `a-b` would be something else."""
    gpu = Partition(f"{name}x", False, True, None, frozenset({"123"}))
    partitions = [Partition(name, True, True, None, frozenset()), gpu]
    args = read(cluster(*partitions), account=name, qos=name, gpu_type="123")
    expected = {"slurm_partition": name, "slurm_account": name, "qos": name}
    assert resources(args.default_resources) == expected
    for rule in GPU_STAGES:
        assert resources(args.set_resources[rule]) == {"slurm_partition": f"{name}x", "gpu_model": "123"}
    assert args.set_resources.keys() == set(GPU_STAGES)


def test_the_executor_accepts_the_settings():
    args = read(cluster(CPU, GPU))
    assert (args.executor, args.jobs, args.retries, args.slurm_requeue) == ("slurm", 100, 0, True)
    assert args.slurm_status_command == "squeue"
    assert args.slurm_status_attempts == 60
    assert args.slurm_init_seconds_before_status_checks == 20
    assert args.software_deployment_method == set()
    assert resources(args.default_resources) == {"slurm_partition": "cpu"}
    assert resources(args.set_resources["retrain"]) == {"slurm_partition": "gpu"}
    assert read(cluster(CPU, GPU, accounting=True)).slurm_status_command == "sacct"


def test_the_lines_for_job_arrays_work_once_uncommented():
    read(cluster(CPU, GPU))
    path = Path("slurm/config.yaml")
    text = path.read_text().replace("jobs: 100 ", "jobs: unlimited ")
    path.write_text(text.replace("# slurm-", "slurm-"))
    args = parse_args(["--profile", "slurm"])[1]
    assert (args.jobs, args.slurm_array_jobs) == (sys.maxsize, "search, retrain, evaluate")
    assert args.slurm_disable_memory_fudge


def test_without_gpus_no_rule_requests_one():
    args = read(cluster(CPU))
    assert {rule: resources(found) for rule, found in args.set_resources.items()} == {
        rule: {"gpu": 0} for rule in GPU_STAGES
    }


def test_a_single_partition_needs_no_settings_per_rule():
    args = read(cluster(BOTH))
    assert resources(args.default_resources) == {"slurm_partition": "both"}
    assert not args.set_resources


@pytest.mark.parametrize("gpu_type", ["a100", "a100_3g.20gb", "1080", "nvidia_a100-sxm4-80gb"])
def test_a_gpu_type_is_one_that_the_executor_submits_or_refused(gpu_type):
    typed = cluster(CPU, Partition("gpu", False, True, None, frozenset({gpu_type})))
    if "-" in gpu_type:  # the executor knows no such types
        with pytest.raises(UserError, match=f"^--gpu-type {gpu_type}: .*--partition"):
            choose(typed, Choice(gpu_type=gpu_type))
        return
    needs = resources(read(typed, gpu_type=gpu_type).set_resources["search"]) | {"gpu": 1}
    assert set_gres_string(SimpleNamespace(resources=needs)) == f" --gpus={gpu_type}:1"


@pytest.mark.parametrize(
    ("partitions", "limit"),
    [([CPU], 2880), ([CPU, GPU], 1440), ([LONG], None), ([BOTH, LONG], 2880), ([CPU, SHORT], 60)],
)
def test_the_workflow_gets_the_shorter_time_limit(partitions, limit):
    args = read(cluster(*partitions))
    assert [path.resolve() for path in args.configfile] == [Path("slurm/site.yaml").resolve()]
    written = yaml.safe_load(Path("slurm/site.yaml").read_text())
    assert written == ({} if limit is None else {"time_limit": limit})


def test_an_image_is_run_by_apptainer_and_named_by_its_full_path(monkeypatch, tmp_path):
    Commands(tmp_path / "commands", monkeypatch).write("apptainer", "true")
    Path("hlrs.sif").touch()
    args = read(cluster(CPU), container=Path("hlrs.sif"))
    assert {str(method.name).lower() for method in args.software_deployment_method} == {"apptainer"}
    assert yaml.safe_load(Path("slurm/site.yaml").read_text())["container"] == str(tmp_path / "hlrs.sif")


def test_names_that_yaml_would_misread_stay_text():
    """Snakemake reads a profile as YAML 1.1."""
    entries = {"on": "no", "partition": "010", "time": "12:30"}
    assert yaml.safe_load(profiles._dumped(entries)) == entries


# --- by the command line ------------------------------------------------------------------------------

CONFIG = """
Configuration data as of 2024-03-01T10:20:30
AccountingStorageHost   = localhost
AccountingStorageType   = {accounting}
ClusterName             = hpc
SLURM_VERSION           = 22.05.8

Slurmctld(primary) at head is UP
"""


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """Set a cluster's answers."""
    commands = Commands(tmp_path / "commands", monkeypatch)

    def answer(*lines, accounting="accounting_storage/none"):
        lines = lines or ("cpu*|up|2|no|2-00:00:00|(null)", "gpu|up|2|no|1-00:00:00|gpu:a100:4(S:0-1)")
        commands.write("sinfo", "cat <<'END'\n" + "\n".join(lines) + "\nEND" if lines != ("",) else "true")
        commands.write("scontrol", f"cat <<'END'{CONFIG.format(accounting=accounting)}END")
        return commands

    return answer


def test_the_profile_is_where_snakemake_looks_for_it(slurm, tmp_path):
    commands = slurm()
    status, shown, _ = run("profile", "slurm", "--account", "all")
    folder = tmp_path / "config/snakemake/slurm"
    assert status == 0
    assert parse_args(["--profile", "slurm"])[1].executor == "slurm"
    for name in ("config.yaml", "site.yaml"):
        text = (folder / name).read_text()
        for fact in ("# hpc", "SLURM 22.05.8", "`hlrs profile slurm`"):
            assert fact in text.splitlines()[0]
        assert f"{folder / name}:\n" + "".join(f"    {line}\n" for line in text.splitlines()) in shown
    assert commands.calls("scontrol") == [["show", "config"]]
    assert commands.calls("sacct") == []  # slurm.conf declares no accounting
    assert "No GPU" not in shown


@pytest.mark.parametrize(
    ("storage", "sacct", "expected"),
    [
        ("accounting_storage/slurmdbd", "true", "sacct"),
        (
            "accounting_storage/slurmdbd",
            "echo 'sacct: error: Problem talking to the database' >&2; exit 1",
            "squeue",
        ),
        ("accounting_storage/none", "true", "squeue"),
        ("(null)", "echo 'Slurm accounting storage is disabled' >&2; exit 1", "squeue"),
    ],
)
def test_sacct_is_the_status_command_only_if_accounting_answers(slurm, storage, sacct, expected):
    commands = slurm(accounting=storage)
    commands.write("sacct", sacct)
    commands.write("sacctmgr", "true")
    assert run("profile", "slurm", "--to", "here")[0] == 0
    assert yaml.safe_load(Path("here/config.yaml").read_text())["slurm-status-command"] == expected


@pytest.mark.parametrize(
    ("account", "listing", "refused"),
    [
        ("lab", "printf 'lab|||\\nroot|||\\n'", False),
        ("Lab", "printf 'lab|||\\nroot|||\\n'", False),  # SLURM stores accounts in lower case
        ("labs", "printf 'root|||\\nlab|||\\n'", True),
        ("labs", "true", False),  # sbatch has the last word
        ("labs", "echo 'sacctmgr: error: Sending PersistInit msg: Connection refused' >&2; exit 1", False),
    ],
)
def test_a_foreign_account_is_refused(slurm, account, listing, refused):
    commands = slurm(accounting="accounting_storage/slurmdbd")
    commands.write("sacct", "true")
    commands.write("sacctmgr", listing)
    arguments = ("profile", "slurm", "--to", "here", "--account", account)
    if refused:
        line = complaint(*arguments)
        assert line.startswith("--account labs: ")
        assert "lab, root" in line
    else:
        assert run(*arguments)[0] == 0
    assert Path("here").exists() != refused


TERMS = """case "$*" in
  *associations*)
    printf 'Maintenance on Monday\nlab|brief,normal|brief|1-00:00:00\nroot|normal||4-00:00:00\nold|||\n' ;;
  *user*) printf 'Maintenance on Monday\nlab\n' ;;
  *qos*) printf 'normal|\nbrief|00:30:00\nlong|7-00:00:00\n' ;;
esac"""


@pytest.mark.parametrize(
    ("arguments", "minutes"),
    [
        ((), 30),  # the default QOS of the default account
        (("--qos", "Brief"), 30),
        (("--qos", "normal"), 1440),  # it has no limit: the account's
        (("--account", "root"), 2880),  # the partition's, less than the account's
        (("--account", "root", "--qos", "normal"), 2880),
        (("--account", "old", "--qos", "brief"), 30),
        (("--account", "old"), 2880),
    ],
)
def test_the_time_limit_is_also_that_of_the_account_and_qos(slurm, arguments, minutes):
    commands = slurm("cpu*|up|2|no|2-00:00:00|gpu:2", accounting="accounting_storage/slurmdbd")
    commands.write("sacct", "true")
    commands.write("sacctmgr", TERMS)
    assert run("profile", "slurm", "--to", "here", *arguments)[0] == 0
    assert yaml.safe_load(Path("here/site.yaml").read_text()) == {"time_limit": minutes}
    [asked] = [call for call in commands.calls("sacctmgr") if "associations" in call]
    assert "cluster=hpc" in asked


def test_a_foreign_qos_is_refused(slurm):
    commands = slurm(accounting="accounting_storage/slurmdbd")
    commands.write("sacct", "true")
    commands.write("sacctmgr", TERMS)
    for options, yours in {
        ("--qos", "long"): "brief, normal",
        ("--qos", "brief", "--account", "root"): "normal",
        ("--qos", "longer", "--account", "old"): "brief, long, normal",
    }.items():
        line = complaint("profile", "slurm", "--to", "here", *options)
        assert line == f"--qos {options[1]}: not yours on hpc; choose from: {yours}"
    commands.write("sacctmgr", "exit 1")
    assert run("profile", "slurm", "--to", "here", "--qos", "long")[0] == 0  # sbatch has the last word


def test_an_existing_profile_is_kept_unless_forced(slurm):
    slurm()
    assert run("profile", "slurm", "--to", "here")[0] == 0
    before = Path("here/config.yaml").read_text()
    line = complaint("profile", "slurm", "--to", "here", "--qos", "low")
    assert line.startswith("here/config.yaml: ")
    assert "--force" in line
    assert Path("here/config.yaml").read_text() == before
    assert run("profile", "slurm", "--to", "here", "--qos", "low", "--force")[0] == 0
    assert "qos" in Path("here/config.yaml").read_text()
    Path("here/config.yaml").unlink()
    assert complaint("profile", "slurm", "--to", "here").startswith("here/site.yaml: ")
    assert not Path("here/config.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--partition", "gpus"], ("--partition gpus: ", "hpc", "cpu, gpu")),
        (["--gpu-type", "h100"], ("--gpu-type h100: ", "hpc", "a100")),
        (["--gpu-type", "a100", "--partition", "cpu"], ("--gpu-type a100: ", "cpu", "none")),
        (["--container", "no.sif"], ("--container no.sif: ", "`make image`")),
        (["--container", "."], ("--container .: ", "`make image`")),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(slurm, arguments, facts):
    slurm()
    line = complaint("profile", "slurm", "--to", "here", *arguments)
    for fact in facts:
        assert fact in line
    assert not Path("here").exists()


def test_a_container_without_apptainer_is_one_line(slurm, monkeypatch, tmp_path):
    real = profiles.shutil.which
    monkeypatch.setattr(
        profiles.shutil,
        "which",
        lambda name, **rest: None if name in ("apptainer", "singularity") else real(name, **rest),
    )
    slurm()
    Path("hlrs.sif").touch()
    line = complaint("profile", "slurm", "--to", "here", "--container", "hlrs.sif")
    assert line.startswith("--container: ")
    assert "`module load apptainer`" in line
    assert not Path("here").exists()


AWAY = "echo 'slurm_load_partitions: Unable to contact slurm controller (connect failure)' >&2; exit 1"
SILENT = ("SLURM", "sinfo, scontrol show config", "login node")


@pytest.mark.parametrize("silent", ["sinfo", "scontrol"])
def test_a_slurm_that_does_not_answer_is_one_line(slurm, silent):
    slurm().write(silent, AWAY)
    line = complaint("profile", "slurm", "--to", "here")
    for fact in SILENT:
        assert fact in line
    assert not Path("here").exists()


def test_a_missing_slurm_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    line = complaint("profile", "slurm", "--to", "here")
    for fact in SILENT:
        assert fact in line


def test_no_partition_is_one_line(slurm):
    slurm("")
    line = complaint("profile", "slurm", "--to", "here")
    assert "sinfo" in line
    assert "no partition" in line


def test_a_cluster_without_gpus_is_reported(slurm):
    slurm("cpu*|up|2|no|infinite|(null)")
    assert "No GPU" in run("profile", "slurm", "--to", "here")[1].splitlines()[-1]


def test_a_folder_that_hides_the_profile_is_named(slurm):
    slurm()
    Path("slurm").mkdir()
    status, _, notice = run("profile", "slurm")
    assert (status, notice.count("\n")) == (0, 1)
    for fact in ("hlrs: ./slurm ", "`--profile slurm`", "rename"):
        assert fact in notice
    assert run("profile", "slurm", "--to", "slurm")[2] == ""
