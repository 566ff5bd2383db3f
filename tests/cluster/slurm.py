"""A real SLURM of two nodes on this machine: munged, slurmctld and two slurmd, no systemd, no accounting
(accounting.py adds it).

    python tests/cluster/slurm.py FOLDER

keeps one until Ctrl-C. Needs root, Debian's slurm-wlm and munge, and a machine without a SLURM of its own:
its configuration is linked into /etc/slurm, because Snakemake's job steps drop the variable SLURM_CONF.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

NAME = "hlrstest"
NODES = ("n1", "n2")
GPUS = 2  # per node; device files, not real GPUs
SHARDS = 4  # of each GPU
MEMORY = 16000  # MB per node; declared, not checked
START_SECONDS = 60.0
ETC = Path("/etc/slurm")
FILES = ("slurm.conf", "gres.conf")
MARK = "HLRS_TEST_CLUSTER"  # in the environment of every process of a cluster: the folder
SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def missing() -> str:
    """What keeps this machine from running the cluster; empty if nothing does."""
    programs = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
    absent = [program for program in programs if not shutil.which(program, path=SBIN)]
    if absent:
        return f"no {', '.join(absent)} here: apt-get install slurm-wlm munge"
    if os.geteuid():
        return "slurmd needs root to start jobs"
    own = next((path for path in map(ETC.joinpath, FILES) if path.exists() and not _ours(path)), None)
    return f"{own} exists: this machine has a SLURM of its own" if own else ""


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Wait until no other cluster runs on this machine, and clean up after a killed one."""
    with Path(tempfile.gettempdir(), "hlrs-test-slurm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for folder in {path.readlink().parent for path in map(ETC.joinpath, FILES) if _ours(path)}:
            Cluster(folder).stop()
        yield


def _ours(path: Path) -> bool:
    """Whether a file of /etc/slurm is a link of this module, even if its folder is gone."""
    if not path.is_symlink():
        return False
    configuration = path.readlink().parent / "slurm.conf"
    return not configuration.exists() or configuration.read_text().startswith(f"ClusterName={NAME}\n")


class Cluster:
    """The daemons and their configuration, all below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {MARK: str(folder)}

    def start(self, **settings: object) -> None:
        """Write the configuration and start everything; `settings` go into slurm.conf."""
        self._configure(settings)
        self._start_services()
        self.start_controller("-c")
        for node in NODES:
            self.start_node(node)
        self.wait(lambda: all(self.node_state(node) == "idle" for node in NODES), "nodes are not idle")

    def stop(self) -> None:
        """Kill every daemon, even of an earlier process, and everything that uses this cluster."""
        for name in list(self.daemons):
            self.kill(name)
        for pid in [*self.shepherds(), *self.marked()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for path in map(ETC.joinpath, FILES):
            if path.is_symlink() and path.readlink().parent == self.folder:
                path.unlink()

    # --- daemons --------------------------------------------------------------------------------------

    def start_controller(self, *arguments: str) -> None:
        """Start slurmctld with the queue that it had, or an empty one with `-c`."""
        self._daemon("slurmctld", "slurmctld", "-D", *arguments)
        self.wait(lambda: "UP" in self._answers("scontrol", "ping"), "slurmctld does not answer")

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        self._daemon(node, "slurmd", "-D", "-N", node)

    def kill(self, name: str) -> None:
        """Kill a daemon by the name it was started under, a slurmd by its node."""
        process = self.daemons.pop(name)
        process.kill()
        process.wait()

    def lose(self, node: str) -> None:
        """Kill a node: its slurmd and its jobs' processes at once, without notice to the controller."""
        jobs = [job for job, (_, _, its_node, _) in self.queue().items() if its_node == node]
        self.kill(node)
        lost = [*self.shepherds(jobs), *self.processes(node)]
        for number in (signal.SIGSTOP, signal.SIGKILL):  # else a shepherd reports how its processes ended
            for pid in lost:
                with contextlib.suppress(ProcessLookupError):  # it already ended by itself
                    os.kill(pid, number)

    def marked(self) -> list[int]:
        """Every process that uses this cluster: its daemons, its jobs, and their submitters."""
        mark = f"{MARK}={self.folder}\0".encode()
        return [pid for pid in _pids() if mark in read_process(pid, "environ")]

    def processes(self, node: str = "") -> list[int]:
        """The processes of this cluster's jobs, or only those of one node."""
        place = f"SLURMD_NODENAME={node}".encode()
        return [pid for pid in self.marked() if place in read_process(pid, "environ")]

    @staticmethod
    def shepherds(jobs: Iterable[str] = ("",)) -> list[int]:
        """The slurmstepd of some jobs, or of all."""
        titles = tuple(f"slurmstepd: [{job}{'.' if job else ''}".encode() for job in jobs)
        return [pid for pid in _pids() if read_process(pid, "cmdline").startswith(titles)]

    def _daemon(self, name: str, *command: str) -> None:
        environment = {**os.environ, **self.environment, "PATH": SBIN}
        with (self.folder / f"{name}.out").open("ab") as output:
            self.daemons[name] = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, start_new_session=True
            )

    def _start_services(self) -> None:
        """Start what the controller needs: munged."""
        run = self.folder / "munge"
        run.mkdir(mode=0o700)
        key = run / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        names = ("pid-file", "log-file", "seed-file")
        files = [f"--{name}={run / name}" for name in names]
        socket_ = f"--socket={self._munge_socket()}"
        self._daemon("munged", "munged", "--foreground", "--force", f"--key-file={key}", socket_, *files)
        self.wait(self._munge_socket().exists, "munged does not start")

    def _munge_socket(self) -> Path:
        return self.folder / "munge/socket"

    # --- configuration --------------------------------------------------------------------------------

    def _configure(self, settings: dict[str, object]) -> None:
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        gres = []
        for node in NODES:
            for index in range(GPUS):
                device = self.folder / f"{node}-gpu{index}"
                os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))  # as /dev/null
                gres.append(f"NodeName={node} Name=gpu Type=test File={device}")
                gres.append(f"NodeName={node} Name=shard Count={SHARDS} File={device}")
        (self.folder / "gres.conf").write_text("\n".join(gres) + "\n")
        (self.folder / "slurm.conf").write_text(self._slurm_conf(settings))
        ETC.mkdir(exist_ok=True)
        for name in FILES:
            (ETC / name).symlink_to(self.folder / name)

    def _slurm_conf(self, settings: dict[str, object]) -> str:
        controller, *ports = free_ports(1 + len(NODES))
        host = socket.gethostname()
        lines = {
            "ClusterName": NAME,
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": controller,
            "SlurmUser": "root",
            "AuthType": "auth/munge",
            # cred_expire: how long a requeued job waits before it may start again; 120 s by default
            "AuthInfo": f"socket={self._munge_socket()},cred_expire=5",
            "CredType": "cred/munge",
            "StateSaveLocation": self.folder / "state",
            "SlurmdSpoolDir": self.folder / "spool-%n",
            "SlurmctldPidFile": self.folder / "slurmctld.pid",
            "SlurmdPidFile": self.folder / "slurmd-%n.pid",
            "SlurmctldLogFile": self.folder / "slurmctld.log",
            "SlurmdLogFile": self.folder / "slurmd-%n.log",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "SwitchType": "switch/none",
            "MpiDefault": "none",
            "ReturnToService": 2,
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core_Memory",
            "SchedulerParameters": "batch_sched_delay=1,sched_interval=2,bf_interval=5",
            "SlurmdParameters": "config_overrides",
            "SlurmctldParameters": "reboot_from_controller",
            "GresTypes": "gpu,shard",
            "AccountingStorageType": "accounting_storage/none",
            "JobAcctGatherType": "jobacct_gather/linux",
            "JobAcctGatherFrequency": 1,
            "JobAcctGatherParams": "OverMemoryKill",
            "SlurmdTimeout": 10,
            "InactiveLimit": 0,
            "KillWait": 10,
            "MinJobAge": 300,
            "UnkillableStepTimeout": 60,
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "REQUEUE",
            **settings,
        }
        text = [f"{name}={value}" for name, value in lines.items()]
        for node, port in zip(NODES, ports, strict=True):
            text.append(
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 "
                f"RealMemory={MEMORY} Gres=gpu:test:{GPUS},shard:{GPUS * SHARDS} State=UNKNOWN"
            )
        names = ",".join(NODES)
        text += [
            f"PartitionName=main Nodes={names} Default=YES MaxTime=2-0 State=UP PriorityTier=1",
            f"PartitionName=urgent Nodes={names} MaxTime=1-0 State=UP PriorityTier=10",
        ]
        return "\n".join(text) + "\n"

    # --- queries --------------------------------------------------------------------------------------

    def ask(self, *command: str) -> str:
        """What a SLURM command prints; CalledProcessError if it fails."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=True
        ).stdout.strip()

    def node_state(self, node: str) -> str:
        """`idle`, `mixed`, `down*` … as sinfo shows it."""
        return self.ask("sinfo", "--noheader", "--node", "--partition=main", f"--nodes={node}", "-o", "%T")

    def queue(self) -> dict[str, list[str]]:
        """Job id -> [state, comment, node, reason]."""
        lines = self.ask("squeue", "--noheader", "-o", "%i|%T|%k|%N|%r").splitlines()
        return {line.split("|")[0]: line.split("|")[1:] for line in lines}

    def wait(self, condition: Callable[[], object], complaint: str, seconds: float = START_SECONDS) -> None:
        """Wait until the condition holds; AssertionError with the daemons' logs if that takes too long."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"{complaint}\n{self.logs()}")
            time.sleep(0.1)

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        ends = []
        for path in sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")]):
            text = path.read_text(errors="replace").splitlines()[-15:]
            ends.append("\n".join([f"--- {path.name}", *text]))
        return "\n".join(ends)

    def _answers(self, *command: str) -> str:
        """What a SLURM command prints; nothing if it fails."""
        try:
            return self.ask(*command)
        except subprocess.SubprocessError:
            return ""


def _pids() -> list[int]:
    return [int(directory.name) for directory in Path("/proc").glob("[0-9]*")]


def read_process(pid: int, name: str) -> bytes:
    """A file of a process in /proc; nothing once the process has ended, which it may do at any time."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def main() -> None:
    """Keep a cluster until Ctrl-C."""
    reason = missing()
    if reason:
        sys.exit(reason)
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True)
    cluster = Cluster(folder)
    with alone():
        try:
            cluster.start()
            print(cluster.ask("sinfo"), flush=True)
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())
            signal.pause()
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
