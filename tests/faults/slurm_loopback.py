"""A SLURM cluster of some nodes on this machine: munged, slurmctld and slurmd on loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
PATIENCE = 1800.0
"""Seconds to wait for anything: what hangs is to be found, and a slow machine is no fault."""
CONF = """\
ClusterName=loop
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/run/munge.sock,cred_expire=5
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PropagateResourceLimits=NONE
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0,requeue_delay=1
MinJobAge=3600
KillWait=15
MessageTimeout=60
GresTypes=gpu
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def lacking() -> list[str]:
    """Name the programs that are not installed."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    return [name for name in NEEDED if shutil.which(name, path=path) is None]


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up.

    Parameters
    ----------
    folder : Path
        All that is its own.
    nodes : tuple of str
        Names.
    environment : dict
        Under which its commands are called.
    """

    folder: Path
    nodes: tuple[str, ...]
    environment: dict[str, str]

    def call(self, *words: str | Path, check: bool = True) -> str:
        """Call a command of SLURM and give what it prints."""
        done = subprocess.run(
            list(map(str, words)),
            env=self.environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        if check and done.returncode:
            raise AssertionError(f"{words}: {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def state(self, job: str) -> dict[str, str]:
        """Read what the controller knows of a job or of one task of an array."""
        line = self.call("scontrol", "show", "job", job, "-o").splitlines()[0]
        return dict(word.split("=", 1) for word in line.split() if "=" in word)

    def queued(self) -> list[str]:
        """List the jobs that are not over."""
        return self.call("squeue", "-h", "-r", "-o", "%i %T %N").splitlines()

    def running(self, node: str) -> list[str]:
        """List the jobs, or tasks of an array, that run on a node."""
        lines = [line.split() for line in self.queued()]
        return [words[0] for words in lines if words[1:] == ["RUNNING", node]]

    def wait(self, until: Callable[[], object], *, what: str, seconds: float = PATIENCE) -> None:
        """Wait for something, or fail with what the queue looks like."""
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                raise AssertionError(f"after {seconds:g} s not yet: {what}; queue: {self.queued()}")
            time.sleep(0.2)

    def set_node(self, node: str, state: str) -> None:
        """Tell the controller what to think of a node."""
        self.call("scontrol", "update", f"NodeName={node}", f"State={state}", "Reason=test")

    def lose(self, node: str) -> None:
        """Kill all that runs on a node at once, its daemon first, as when its power fails.

        The controller is told; by itself it would see it when ``SlurmdTimeout`` is over.
        """
        daemon = int((self.folder / "run" / f"slurmd-{node}.pid").read_text())
        os.kill(daemon, signal.SIGKILL)
        for pid in self.processes(node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.set_node(node, "DOWN")

    def restore(self, node: str) -> None:
        """Start a node that was lost; when it tells the controller so, that takes it back."""
        _daemon(self, ["slurmd", "-f", self.environment["SLURM_CONF"], "-N", node])
        self.wait(lambda: "down" not in self.state_of(node), what=f"{node} in service")

    def state_of(self, node: str) -> str:
        """Say what the controller thinks of a node."""
        return self.call("sinfo", "-h", "-N", "-n", node, "-o", "%T")

    def processes(self, node: str | None = None) -> list[int]:
        """List what this cluster has started, or the jobs of a node with what watches them."""
        ours = f"SLURM_CONF={self.environment['SLURM_CONF']}".encode()
        here = b"" if node is None else f"SLURMD_NODENAME={node}".encode()
        pids = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "environ").read_bytes().split(b"\0")
                if ours in words and (not here or here in words):
                    pids += [int(folder.name), *_watcher(folder)]
        own = os.getsid(0)  # what the test itself has started is none of its jobs
        return sorted(pid for pid in {*pids} if _session(pid) != own)


@contextlib.contextmanager
def cluster(*, nodes: int = 2, cpus: int = 2, memory: int = 6000) -> Iterator[Cluster]:
    """Bring a cluster up, and take it down."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a socket's path must be short
    folder.chmod(0o755)
    for name in ("state", "spool", "run", "log", "tmp"):
        (folder / name).mkdir(mode=0o755)
    names = tuple(f"n{i + 1}" for i in range(nodes))
    host = socket.gethostname().split(".")[0]
    ports = _free_ports(nodes + 1)
    lines = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} "
        f"RealMemory={memory} Gres=gpu:1 State=UNKNOWN"
        for name, port in zip(names, ports[1:], strict=True)
    ]
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, folder=folder, port=ports[0]) + "\n".join(lines) + "\n")
    (folder / "gres.conf").write_text(
        "".join(f"NodeName={name} Name=gpu File=/dev/null\n" for name in names)
    )
    path = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"
    environment = {**os.environ, "SLURM_CONF": str(conf), "PATH": path}
    environment["TMPDIR"] = str(folder / "tmp")  # what a node that is lost leaves behind
    up = Cluster(folder, names, environment)
    try:
        _start(up)
        yield up
    finally:
        _stop(up)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _start(up: Cluster) -> None:
    run, key = up.folder / "run", up.folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    options = {
        "key-file": key,
        "socket": run / "munge.sock",
        "pid-file": run / "munged.pid",
        "log-file": up.folder / "log" / "munged.log",
        "seed-file": run / "munge.seed",
    }
    # It asks for a folder that nobody else may write, which a temporary one is not.
    _daemon(up, ["munged", "--force", *(f"--{name}={path}" for name, path in options.items())])
    conf = up.environment["SLURM_CONF"]
    _daemon(up, ["slurmctld", "-f", conf])
    for name in up.nodes:
        _daemon(up, ["slurmd", "-f", conf, "-N", name])
    up.wait(
        lambda: up.call("sinfo", "-h", "-o", "%T", check=False).split() == ["idle"],
        what=f"idle nodes; see {up.folder}/log",
    )


def _daemon(up: Cluster, words: Sequence[str]) -> None:
    subprocess.run(list(words), env=up.environment, check=True, timeout=PATIENCE)


def _watcher(folder: Path) -> list[int]:
    """Find the parent of a process if it is what SLURM watches a job with."""
    parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    name = (Path("/proc") / str(parent) / "cmdline").read_bytes()
    return [parent] if name.startswith(b"slurmstepd") else []


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return os.getsid(0)


def _stop(up: Cluster) -> None:
    """End all jobs, then the daemons in order, then what is left."""
    up.call("scancel", "--user=root", check=False)
    _until(lambda: not up.call("squeue", "-h", check=False), seconds=40)
    order = [*(f"slurmd-{name}" for name in up.nodes), "slurmctld", "munged"]
    for path in [up.folder / "run" / f"{name}.pid" for name in order]:
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(text), signal.SIGTERM)
    _until(lambda: not up.processes(), seconds=20)
    for pid in up.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(up.folder, ignore_errors=True)


def _until(over: Callable[[], bool], *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not over() and time.monotonic() < end:
        time.sleep(0.2)
