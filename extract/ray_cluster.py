"""Joining a Ray cluster, or starting one here, without its noise; and the places that it has for workers."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from extract.pool import cores
from fsar_cache.console import warn
from fsar_cache.errors import MissingError, UsageError

ANSWER_LIMIT = 10.0
"""Seconds in which a cluster must answer at its address."""


@dataclass(frozen=True)
class Place:
    """Room for one worker: the machine (Ray's id of it), and the processors and accelerators to claim there."""

    node: str
    cpus: int
    gpus: int


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The ray module, connected: to the cluster at HOST:PORT, to this machine's ("auto"), or to one started here ("") and ended after.

    A connection that this process has already is used and kept. Raises MissingError without Ray or a cluster that answers, UsageError for
    an address of another form, or of another cluster than the one this process is connected to.
    """
    ray = _imported()
    _require_answer(address)
    if ray.is_initialized():
        joined = ray.get_runtime_context().gcs_address
        if address not in ("", "auto", joined):
            raise UsageError(
                f"this process is connected to the Ray cluster at {joined}, not {address}", hint="ray.shutdown()"
            )
        yield ray
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address or "local",
            num_cpus=None if address else cores(),
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (RuntimeError, ConnectionError, ValueError) as error:
        raise MissingError(
            f"no Ray cluster at {address or 'this machine'}: {' '.join(str(error).split())[:300]}",
            hint="ray status shows a running cluster; ray start --head starts one; without --ray-address one is started for the run",
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(
                signal.SIGTERM, before
            )  # Ray puts its own in the place of the command's, which saves the work in hand
    try:
        yield ray
    finally:
        ray.shutdown()


def _imported() -> Any:
    """The ray module, told to keep its reports to itself: nothing of it on stdout, no warnings, nothing sent to its makers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.util.scheduling_strategies")
        importlib.import_module("ray._private.worker")._worker_logs_enabled = False  # type: ignore[attr-defined]
    except ImportError as error:
        raise MissingError(
            f"the engine ray can't be used: {error}", hint="pip install 'fsar-cache[ray]', or leave --engine at local"
        ) from error
    return ray


def _require_answer(address: str) -> None:
    """Ray itself waits for minutes where nobody answers."""
    if address in ("", "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise UsageError(
            f"a Ray address is HOST:PORT or auto, got {address!r}",
            hint="take the one that ray start --head printed, on a machine of the cluster",
        )
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_LIMIT).close()
    except (OSError, OverflowError) as error:
        raise MissingError(
            f"no Ray cluster answers at {address}: {error}", hint="ray start --head --port PORT starts one"
        ) from error


def places(nodes: Iterable[Mapping[str, Any]], workers: int, *, accelerator: bool) -> list[Place]:
    """One place per accelerator, with its share of the machine's processors; without `accelerator` one per machine, with all of them.

    nodes: as `ray.nodes()` tells them; workers: processors per place, 0 for all there are. Raises MissingError where there is no place.
    """
    found, unused = [], 0
    for node in nodes:
        if not node["Alive"]:
            continue
        cpus, gpus = (int(node["Resources"].get(name, 0)) for name in ("CPU", "GPU"))
        if accelerator and gpus:
            share = cpus // gpus
            found += [Place(node["NodeID"], min(workers or share, share), 1)] * gpus
        elif not accelerator and cpus:
            unused += gpus
            found.append(Place(node["NodeID"], min(workers or cpus, cpus), 0))
    if not found:
        what = "accelerators" if accelerator else "processors"
        raise MissingError(f"the machines of the Ray cluster have no {what}", hint="ray status")
    if unused:
        warn(
            f"the cluster's {unused} accelerators are not used: this run's device is the CPU of this machine; "
            "to use them start the command on a machine that has one"
        )
    return found
