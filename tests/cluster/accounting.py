"""The cluster of slurm.py with accounting: slurmdbd on its own MariaDB, which opens no port.

Also needs Debian's slurmdbd and mariadb-server, neither of them configured or running.
"""

import shutil
from pathlib import Path

from tests.cluster import slurm

ACCOUNT = "lab"  # that root may charge, besides the default one
QOS = "brief"  # of which that account's jobs may take half an hour


def missing() -> str:
    """What keeps this machine from running the cluster; empty if nothing does."""
    programs = ("slurmdbd", "mariadbd", "mariadb-install-db", "sacctmgr")
    absent = [program for program in programs if not shutil.which(program, path=slurm.SBIN)]
    if absent:
        return f"no {', '.join(absent)} here: apt-get install slurmdbd mariadb-server"
    return slurm.missing()


class Cluster(slurm.Cluster):
    """The daemons, including those of the accounting, all below one folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        [self.port] = slurm.free_ports(1)
        self.environment["MYSQL_UNIX_PORT"] = str(folder / "database.socket")

    def start(self, **settings: object) -> None:
        """Write the configuration and start everything; `settings` go into slurm.conf."""
        accounting = {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": "127.0.0.1",
            "AccountingStoragePort": self.port,
            "AccountingStoragePass": self._munge_socket(),
            "AccountingStorageEnforce": "limits,qos",  # an unknown account is refused
        }
        super().start(**accounting, **settings)

    def start_accounting(self) -> None:
        """Start slurmdbd with the accounts and jobs that it had."""
        # only slurmdbd reads slurmdbd.conf, beside slurm.conf: it needs no link from /etc/slurm
        self._daemon("slurmdbd", "env", f"SLURM_CONF={self.folder / 'slurm.conf'}", "slurmdbd", "-D")
        self.wait(lambda: self._answers("sacctmgr", "show", "stats"), "slurmdbd does not answer")

    def _start_services(self) -> None:
        super()._start_services()
        self._start_database()
        self._configure_accounting()
        self.start_accounting()
        for entry in (
            ["cluster", slurm.NAME],
            ["account", ACCOUNT],
            ["user", "root", f"account={ACCOUNT}"],
            ["qos", QOS, "maxwall=00:30:00"],
        ):
            self.ask("sacctmgr", "--immediate", "add", *entry)
        mine = ("user", "root", "where", f"account={ACCOUNT}", "set", f"qos=normal,{QOS}")
        self.ask("sacctmgr", "--immediate", "modify", *mine)

    def _start_database(self) -> None:
        data = f"--datadir={self.folder / 'database'}"
        self.ask(
            *("mariadb-install-db", "--no-defaults", data, "--user=root", "--skip-test-db"),
            "--auth-root-authentication-method=normal",  # no password on the socket
        )
        address = Path(self.environment["MYSQL_UNIX_PORT"])
        files = (data, f"--socket={address}", f"--pid-file={self.folder / 'mariadbd.pid'}")
        self._daemon("mariadbd", "mariadbd", "--no-defaults", "--user=root", "--skip-networking", *files)
        self.wait(address.exists, "mariadbd does not start")

    def _configure_accounting(self) -> None:
        lines = {
            "DbdHost": "localhost",
            "DbdAddr": "127.0.0.1",
            "DbdPort": self.port,
            "SlurmUser": "root",
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={self._munge_socket()}",
            "LogFile": self.folder / "slurmdbd.log",
            "PidFile": self.folder / "slurmdbd.pid",
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "localhost",  # through the socket of MYSQL_UNIX_PORT
            "StorageUser": "root",
        }
        path = self.folder / "slurmdbd.conf"
        path.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        path.chmod(0o600)  # else slurmdbd refuses it
