"""Work on a Dask cluster: the client's side, and the workers that it starts.

Each worker does one unit at a time, in its own process, with the models it has loaded kept for the
next one. Results are written by the workers into the output folder, which all of them must see;
only the short `RunResult` of each run travels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.clusters.executors import Outcome, failed
from neurostorm_app.bids_app.clusters.sharing import divide, memory_of_unit
from neurostorm_app.bids_app.failures import as_app_error
from neurostorm_app.bids_app.results import tell_result
from neurostorm_app.errors import ExitCode, TemporaryError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from neurostorm_app.bids_app.inputs.dataset import Participant
    from neurostorm_app.bids_app.participant.units import Call
    from neurostorm_app.pipelines.resources import Plan

__all__ = ["work_through_dask"]

log = logging.getLogger(__name__)

TRIES: Final = 3
"""Times that a unit is tried: when it asks for that (exit code 75), or when its worker dies."""
MOST_JOBS: Final = 64
CORES: Final = 2
"""Cores of a worker that is a job, where nobody said how many."""
PATIENCE: Final = "30s"
"""How long a scheduler is waited for."""
FAREWELL: Final = "5s"
"""How long workers of others are waited for when they are to drop what they hold."""
CONFIG: Final = {
    # The preprocessing has processes of its own, which a daemon may not have.
    "distributed.worker.daemon": False,
    # Memory is planned; a worker that is paused or ended for it would lose its unit.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    # A unit is hours of pure work, in code that does not let others run.
    "distributed.scheduler.allowed-failures": TRIES - 1,
    "distributed.admin.tick.limit": "1h",
    # For the same reason a worker may be silent for long; that it is gone, its connection tells.
    "distributed.scheduler.worker-ttl": None,
    "distributed.comm.timeouts.connect": "2m",
}
RETURN: Final = {"": "1h", "slurm": "2m"}
"""How long a worker that died may take to come back before its place is given up.

On this machine it always comes back, with all that it imports; a job may be over for good, and
another is queued then.
"""


def work_through_dask(
    groups: Sequence[Sequence[Participant]], call: Call, *, where: str, per_process: int
) -> list[Outcome]:
    """Do all units of work on a Dask cluster.

    Parameters
    ----------
    groups : sequence of sequence of Participant
        The units.
    call : Call
        What they share.
    where : str
        Address of a scheduler, ``slurm`` for workers that are jobs, or nothing for workers on this
        machine.
    per_process : int
        Bytes of memory that one process of the preprocessing may need.

    Returns
    -------
    list of Outcome
        In the order of the units.

    Raises
    ------
    UsageError
        If a package is not installed, the scheduler does not answer, or no worker has a GPU.
    """
    _check_installed("dask_jobqueue" if where == "slurm" else "distributed")
    import dask.config
    import distributed  # noqa: F401  reads its settings

    with (
        dask.config.set(CONFIG),
        dask.config.set({"distributed.deploy.lost-worker-timeout": RETURN.get(where, "1h")}),
        _cluster(where, call, groups, per_process=per_process) as (client, local),
    ):
        shared = call if local is None else dataclasses.replace(call, plan=local)
        from neurostorm_app.bids_app.clusters.executor_dask_worker import Shared

        # Workers of ours are all alike, and of one thread: no unit need look for a larger one.
        ours = where in {"", "slurm"}
        offered: dict[str, float] = {**_gpu(call)} if ours else _offered(client, call)
        asked = [_asked(group, call, offered, per_process) for group in groups]
        plugin = Shared(shared, alone=local is None, per_process=per_process)
        try:
            client.register_plugin(plugin)
            return list(_outcomes(client, groups, call, asked, plugin.name))
        finally:
            if not ours:  # those of ours end with the call, and with them what they hold
                _take_back(client, plugin.name)


def _take_back(client: Any, plugin: str) -> None:
    """Take the plugin, with the models that it holds, off the workers of others.

    The scheduler forgets it at once and tells all workers. One deep in a unit listens late, and
    one that is just going not at all: neither is waited for, nor a reason to lose what was done.
    """
    take = client.scheduler.unregister_worker_plugin
    try:
        client.sync(take, name=plugin, callback_timeout=FAREWELL)
    except (OSError, ValueError) as error:  # TimeoutError is one; ValueError: it was not there
        log.debug("the plugin %s was not taken off every worker: %r", plugin, error)


def _check_installed(package: str) -> None:
    from importlib.util import find_spec

    for name in ("distributed", package):
        if find_spec(name) is None:
            raise UsageError(
                f"--executor dask needs the package {name}, which is not installed",
                fix="pip install 'neurostorm-app[cluster]', or leave --executor out",
            )


@contextlib.contextmanager
def _cluster(
    where: str, call: Call, groups: Sequence[Sequence[Participant]], *, per_process: int
) -> Iterator[tuple[Any, Plan | None]]:
    """Find or start the workers; give the client, and the plan of each worker if we know it."""
    from distributed import Client, LocalCluster

    gpu = _gpu(call)
    if where == "slurm":
        with (
            _slurm(call, gpu, count=len(groups), per_process=per_process) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client, None
    elif where:
        try:
            client = Client(where, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--executor dask:{where}: no scheduler answers: {error}",
                fix="start one with 'dask scheduler', and workers that see the same folders",
            ) from error
        with client:
            yield client, None
    else:
        n_workers, share = divide(call, groups, most=1 if gpu else len(groups))
        options: dict[str, Any] = {"n_workers": n_workers, "threads_per_worker": 1}
        options |= {
            "resources": gpu,
            "dashboard_address": "127.0.0.1:0",
        }
        with (
            LocalCluster(memory_limit=None, host="127.0.0.1", **options) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client, share


def _gpu(call: Call) -> dict[str, int]:
    wanted = call.settings.execution.device.startswith("cuda") and call.settings.runs_models
    return {"GPU": 1} if wanted else {}


def _slurm(call: Call, gpu: dict[str, int], *, count: int, per_process: int) -> Any:
    """Start workers as jobs; partition, account and time are read from Dask's own files."""
    from dask_jobqueue.slurm import SLURMCluster

    execution = call.settings.execution
    # What this machine has says nothing of the nodes.
    cores = execution.nprocs or CORES
    memory = execution.memory or cores * per_process
    labels = ",".join(f"{name}={value}" for name, value in {**gpu, "MEMORY": memory}.items())
    cluster = SLURMCluster(
        cores=cores,
        processes=1,
        memory=f"{memory / 2**30:.3f}GiB",
        worker_extra_args=["--resources", labels, "--nthreads", "1"],
        job_extra_directives=["--requeue", *(["--gres=gpu:1"] if gpu else [])],
        job_script_prologue=[f"export {line}" for line in _of_workers()],
        log_directory=str(call.root / "logs" / "dask"),
        scheduler_options={"dashboard_address": "127.0.0.1:0"},
    )
    # Workers whose time is up are replaced while there is work.
    cluster.adapt(minimum_jobs=1, maximum_jobs=max(1, min(count, MOST_JOBS)))
    return cluster


def _of_workers() -> list[str]:
    """Write what workers are to know of the configuration as Dask reads it from variables."""
    kept = {name: value for name, value in CONFIG.items() if ".worker." in name}
    return [f"DASK_{name.replace('.', '__').upper()}={value}" for name, value in kept.items()]


def _offered(client: Any, call: Call) -> dict[str, float]:
    """Say what the workers of others offer: a GPU if it is wanted, and the most memory beside it.

    Memory is left out where no worker says how much it has.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    gpu = _gpu(call)
    fitting = [w["resources"] for w in workers if not gpu or "GPU" in w["resources"]]
    if gpu and not fitting:
        raise UsageError(
            f"--device {call.settings.execution.device}: no worker of this cluster offers GPU",
            fix="start workers with: dask worker ADDRESS --resources 'GPU=1'",
        )
    memory = max((resources.get("MEMORY", 0) for resources in fitting), default=0)
    return {**gpu, **({"MEMORY": memory} if memory else {})}


def _asked(
    group: Sequence[Participant], call: Call, offered: dict[str, float], per_process: int
) -> dict[str, float]:
    """Say what a unit asks of a worker.

    One for which there is too little goes where there is most, and is refused there if it still
    lacks what does not fit; else it would wait for ever. What is offered was read when the call
    began: a worker that registers later is not counted on, and where the only one that is large
    enough leaves, the unit waits until another one like it is there.
    """
    if "MEMORY" not in offered:
        return offered
    needed = max(per_process, memory_of_unit(group, call))
    return {**offered, "MEMORY": min(needed, offered["MEMORY"])}


def _outcomes(
    client: Any,
    groups: Sequence[Sequence[Participant]],
    call: Call,
    asked: Sequence[dict[str, float]],
    plugin: str,
) -> Iterator[Outcome]:
    """Send all units, again where that may help, and give what came of each in their order."""
    from distributed import as_completed

    from neurostorm_app.bids_app.clusters.executor_dask_worker import work

    def send(number: int) -> Any:
        return client.submit(work, groups[number], plugin, resources=asked[number], pure=False)

    waiting = {send(number): (number, 1) for number in range(len(groups))}
    done: dict[int, Outcome] = {}
    stream = as_completed(list(waiting), loop=client.loop)
    for future in stream:
        number, tries = waiting.pop(future)
        outcome = _outcome(future, groups[number], call)
        codes = {result.exit_code for result in outcome.results}
        if ExitCode.TEMPORARY in codes and tries < TRIES:
            log.warning("sub-%s: trying again (%d of %d)", groups[number][0].label, tries, TRIES)
            again = send(number)
            waiting[again] = (number, tries + 1)
            stream.add(again)
            continue
        done[number] = outcome
        for result in outcome.results:
            tell_result(result)  # its worker told it to nobody here
        if call.stops and codes - {ExitCode.SUCCESS}:
            log.error("stopped at the first failure: %d participants not tried", len(waiting))
            client.cancel(list(waiting), force=True)
            break
    yield from (done[number] for number in sorted(done))


def _outcome(future: Any, group: Sequence[Participant], call: Call) -> Outcome:
    """Take what a worker gave, or say why it gave nothing."""
    from distributed import KilledWorker

    if future.status == "finished":
        outcome: Outcome = future.result()
        return outcome
    error = future.exception() if future.status == "error" else None
    if error is None or isinstance(error, KilledWorker):
        error = TemporaryError(
            f"the worker was lost {TRIES} times, most often for want of memory",
            fix="give workers more memory, or fewer of them, and call again",
        )
    why = as_app_error(error)
    return Outcome([failed(f"sub-{participant.label}", why, call) for participant in group])
