"""The engine "ray" on a small cluster of this machine: the bytes of a local run, whatever becomes of its workers."""

from __future__ import annotations

import dataclasses
import logging
import platform
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray_workers
import stores
from toy import split_of, write_clip, write_clips

from cache.rows import Row
from cache.store import FeatureStore, open_store
from extract import ray_engine
from extract.compute import Slice
from extract.config import ExtractConfig
from extract.local import Clips
from extract.plan import plan
from extract.prepare import rows_of
from extract.progress import Progress
from extract.ray_cluster import Place, connected, places
from extract.ray_worker import Given, Worker
from extract.run import extract
from fsar_cache.errors import Interrupted, MissingError, SpaceError, UsageError
from splits.types import Split

ray = pytest.importorskip("ray", reason="Ray is not installed")
CONFIG = ExtractConfig(size=32, frames=4, workers=2, max_failures=1.0, block_rows=8, device="cpu", engine="ray")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(Path(__file__).parent))  # its processes import ray_workers
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=80_000_000,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 good clips; number 18 is none."""
    folder = write_clips(tmp_path_factory.mktemp("clips"), 18)
    (folder / "18.mp4").write_text("not a video")
    return folder


@pytest.fixture(scope="module")
def local(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """What one local run makes of all of them, and of a clip whose file is missing; on a machine called as this engine's blocks say."""
    config = dataclasses.replace(CONFIG, engine="local")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("extract.run.platform.node", lambda: "ray")
        return open_store(extract(split_of(clips, list(range(20))), config, tmp_path_factory.mktemp("local")).path)


@pytest.fixture
def split(clips: Path, tmp_path: Path) -> Split:
    """The same clips in a folder of this test's own."""
    shutil.copytree(clips, tmp_path / "videos")
    return split_of(tmp_path / "videos", list(range(20)))


def use(worker: type, monkeypatch: pytest.MonkeyPatch, workers: int = 1) -> None:
    """Workers of this class, `workers` of them on this machine."""
    monkeypatch.setattr(ray_engine, "Worker", worker)
    if workers > 1:
        node = ray.nodes()[0]["NodeID"]
        monkeypatch.setattr(ray_engine, "places", lambda *_, **__: [Place(node, 1, 0)] * workers)


def check(path: Path, local: FeatureStore) -> None:
    assert stores.contents(path) == stores.contents(local.path)


def calls(folder: Path) -> list[list[str]]:
    return [(folder / "calls" / str(i)).read_text().split() for i in range(len(list((folder / "calls").iterdir())))]


@pytest.mark.slow
def test_a_machine_of_a_joined_cluster_is_lost(
    split: Split, local: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stands first: it makes a cluster of two machines of its own, and nothing may be connected before."""
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(ray_engine, "SHARE", 1)
    machine = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=machine)
    try:
        second = made.add_node(num_cpus=1, object_store_memory=80_000_000)
        lost: list[int] = []

        def lose(now: Progress) -> None:
            if now.done > 1 and not lost:
                lost.append(now.done)
                made.remove_node(second, allow_graceful=False)

        monkeypatch.setattr("extract.progress.EVERY", 0.0)
        config = dataclasses.replace(CONFIG, ray_address=made.address, workers=1)
        check(extract(split, config, tmp_path, report=lose).path, local)
        assert lost
        assert not ray.is_initialized(), "a cluster that was joined is left as it was"
    finally:
        made.shutdown()


def test_a_share_lost_with_its_worker_is_made_again_and_no_more(
    cluster: None, split: Split, local: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes, outcomes (of failed clips too) and provenance are those of a local run."""
    use(ray_workers.DiesOnce, monkeypatch)
    summary = extract(split, CONFIG, tmp_path)
    check(summary.path, local)
    assert [name for name, _ in summary.failed] == ["test/18", "test/19"]
    first, second, _ = calls(tmp_path)
    assert len(first) == 8, "two blocks: half of what there is to do"
    assert set(second) < set(first)
    assert 1 <= len(first) - len(second) <= 2, "what the lost worker delivered is not made again"


@pytest.mark.slow
def test_workers_that_keep_dying_over_a_block_end_the_run(
    cluster: None, split: Split, local: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(ray_workers.DiesAlways, monkeypatch)
    with pytest.raises(
        SpaceError, match=r"2 Ray workers were lost over block .*1 \(clips '.*' to 'test/15'\)"
    ) as caught:
        extract(split, CONFIG, tmp_path)
    assert "--workers 1" in str(caught.value.hint)
    monkeypatch.undo()
    summary = extract(split, CONFIG, tmp_path)
    assert 0 < summary.skipped <= 8, "the slices that each of the two delivered are saved"
    check(summary.path, local)


@pytest.mark.parametrize(
    ("worker", "error", "text"),
    [
        (ray_workers.Refuses, UsageError, "never this"),
        pytest.param(ray_workers.Breaks, ZeroDivisionError, "one over nought", marks=pytest.mark.slow),
        pytest.param(
            ray_workers.CannotStart,
            MissingError,
            "ended before it was ready .*ImportError: no module of that name",
            marks=pytest.mark.slow,
        ),
        (ray_workers.Different, MissingError, "other would make other bytes .*'torch': '1.0'.* there"),
        pytest.param(ray_workers.Elsewhere, MissingError, "has no /nowhere/00.mp4", marks=pytest.mark.slow),
    ],
)
def test_what_goes_wrong_in_a_worker_arrives_here(
    cluster: None,
    split: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    worker: type,
    error: type[Exception],
    text: str,
) -> None:
    use(worker, monkeypatch)
    with pytest.raises(error, match=text) as caught:
        extract(split, CONFIG, tmp_path)
    if error is UsageError:
        assert type(caught.value) is UsageError
        assert caught.value.hint == "but that"  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("worker", [ray_workers.Worker, ray_workers.Different, ray_workers.DiesOnce])
@pytest.mark.parametrize("backend", ["zarr", "hdf5"])
def test_two_workers_make_what_one_makes(
    cluster: None,
    split: Split,
    local: FeatureStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    worker: type,
    backend: str,
) -> None:
    """Shares of one block; one worker differs and is left out, or is lost."""
    monkeypatch.setattr(ray_engine, "SHARE", 1)
    use(worker, monkeypatch, workers=2)
    with open_store(extract(split, dataclasses.replace(CONFIG, backend=backend), tmp_path).path) as store:
        assert store.load().tobytes() == local.load().tobytes()
        assert [store.outcome(i) for i in range(20)] == [local.outcome(i) for i in range(20)]
    assert ("a Ray worker is left out: other" in capsys.readouterr().err) == (worker is ray_workers.Different)


@pytest.mark.slow
def test_stopping_saves_what_has_arrived(
    cluster: None, split: Split, local: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.progress.EVERY", 0.0)
    stop = threading.Event()
    with pytest.raises(Interrupted) as caught:
        extract(split, CONFIG, tmp_path, stop=stop, report=lambda now: stop.set() if now.done >= 3 else None)
    saved = int(str(caught.value).split("with ")[1].split(" ")[0])
    assert 3 <= saved < 20
    monkeypatch.undo()
    summary = extract(split, CONFIG, tmp_path)
    assert (summary.skipped, summary.made) == (saved, 20 - saved)
    check(summary.path, local)


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "head", "head:port"])
def test_addresses_of_other_forms_are_refused(address: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"), connected(address):
        pass


def test_a_cluster_that_is_not_there_is_said_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(MissingError, match=f"no Ray cluster answers at {address}"), connected(address):
            pass


def test_another_cluster_than_the_one_joined_is_refused(cluster: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(UsageError, match="this process is connected"), connected(address):
            pass


def test_without_ray_the_command_says_how_to_get_it(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingError, match="engine ray can't be used") as caught:
        extract(split, CONFIG, tmp_path)
    assert "pip install 'fsar-cache[ray]'" in str(caught.value.hint)


def node(cpus: float, gpus: float = 0, alive: bool = True) -> dict[str, object]:
    name = f"{cpus:g}+{gpus:g}"
    return {"NodeID": name, "Alive": alive, "Resources": {k: v for k, v in (("CPU", cpus), ("GPU", gpus)) if v}}


def test_places_are_machines_or_accelerators(capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [node(0), node(16), node(8, 2), node(64, 8, alive=False), node(2, 4)]
    cpu = [Place("16+0", 16, 0), Place("8+2", 8, 0), Place("2+4", 2, 0)]
    assert places(nodes, 0, accelerator=False) == cpu
    assert "6 accelerators are not used" in capsys.readouterr().err
    assert [place.cpus for place in places(nodes, 3, accelerator=False)] == [3, 3, 2]
    capsys.readouterr()
    gpu = [Place("8+2", 4, 1)] * 2 + [Place("2+4", 0, 1)] * 4
    assert places(nodes, 0, accelerator=True) == gpu
    assert [place.cpus for place in places(nodes, 3, accelerator=True)] == [3, 3, 0, 0, 0, 0]
    assert capsys.readouterr().err == ""
    with pytest.raises(MissingError, match="no accelerators"):
        places([node(16)], 0, accelerator=True)


def slices(sizes: list[int], taken: list[int]) -> Iterator[Slice]:
    """Slices of four rows of blocks with these sizes; `taken` gets the blocks that were reached."""
    for block, rows in enumerate(sizes):
        taken.append(block)
        for first in range(0, rows, 4):
            yield Slice(block, first, [Row(f"{block}.{i}", "c", "train") for i in range(first, min(first + 4, rows))])


def test_shares_are_whole_blocks_taken_as_they_are_wanted() -> None:
    taken: list[int] = []
    shares = ray_engine._shares(slices([8, 8, 24, 3], taken), 10)
    assert sorted({block for block, _ in next(shares).left}) == [0, 1]
    assert taken == [0, 1, 2]
    rest = list(shares)
    assert [sorted({block for block, _ in share.left}) for share in rest] == [[2], [3]]
    assert [len(share.left) for share in rest] == [6, 1]
    assert str(rest[1]) == "block 3 (clips '3.0' to '3.2')"


@pytest.mark.parametrize(("rows", "workers", "least"), [(80, 4, 10), (80, 1, 40), (100_000, 4, 256), (3, 4, 1)])
def test_every_worker_gets_two_shares_of_little_work(rows: int, workers: int, least: int) -> None:
    assert ray_engine._least(rows, workers) == least
    sizes = [8] * (rows // 8) or [rows]
    shares = list(ray_engine._shares(slices(sizes, []), ray_engine._least(rows, workers)))
    assert len(shares) >= min(workers, len(sizes))


def test_the_time_is_not_estimated_on_this_machine_alone(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One clip would be worth a try, and none is tried: other machines would do the work."""
    monkeypatch.setattr("extract.run.WORTH_A_TRY", 1)
    monkeypatch.setattr("extract.run.estimate", lambda *_, **__: pytest.fail("tried"))
    monkeypatch.setattr(ray_engine, "computed_by_ray", lambda *_, **__: iter(()))
    monkeypatch.setattr("extract.plan.estimate", lambda *_, **__: pytest.fail("tried"))
    assert plan(split, CONFIG, tmp_path, tries=2).estimate is None
    with pytest.raises(Interrupted):
        extract(split, CONFIG, tmp_path)


def worker_at(split: Split, root: Path) -> Worker:
    """A worker on a machine whose videos are those in `root`, while the command's are those of `split`."""
    videos = {video.id: video for part in split.parts.values() for video in part.videos}
    origins = {row.id: row.origin for row in rows_of(split)}
    return Worker(Given(root, split, CONFIG, Clips(root, videos), 2, origins), 1)


@pytest.mark.parametrize("view", [0, 1])
def test_a_worker_refuses_files_that_are_not_those_of_the_command(split: Split, tmp_path: Path, view: int) -> None:
    """One clip that isn't there, or is another of the same name, among many that are right."""
    theirs = tmp_path / "theirs"
    rows = [row for row in rows_of(split, dataclasses.replace(CONFIG, views=1)) if row.view == view]
    shutil.copytree(split.root, theirs)

    def refusal() -> str:
        with pytest.raises(MissingError) as caught:
            list(worker_at(split, theirs).made([Slice(0, 0, rows)]))
        assert "under the same path" in str(caught.value.hint)
        return str(caught.value)

    (theirs / "05.mp4").unlink()
    right = f"; the command's machine has 05.mp4 ({(split.root / '05.mp4').stat().st_size} bytes)"
    assert refusal() == f"{platform.node()} has no {theirs / '05.mp4'}{right}"
    write_clip(theirs / "05.mp4", 77, frames=21)
    other = f"05.mp4 ({(theirs / '05.mp4').stat().st_size} bytes)"
    assert refusal() == f"{platform.node()} has another {theirs / '05.mp4'}: {other}{right}"


def test_a_worker_takes_what_the_command_has_and_fails_what_it_lacks(split: Split, tmp_path: Path) -> None:
    """Also a clip that was there when the store's rows were planned, and is gone now."""
    planned = [row for row in rows_of(split) if row.id in ("train/02", "test/18", "test/19")]
    (split.root / "02.mp4").unlink()
    worker = worker_at(split, split.root)
    worker.ready()
    stranger = Row("train/99", "c", "train", origin="99.mp4 (3 bytes)")
    (made,) = worker.made([Slice(0, 0, [planned[0], stranger])])
    assert [outcome.status for outcome in made.outcomes] == ["failed", "absent"]
    (made,) = worker.made([Slice(0, 0, planned[1:])])
    assert [outcome.status for outcome in made.outcomes] == ["failed", "failed"]
