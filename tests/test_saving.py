"""Saving beside the work: in order, bounded, and no error is lost."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from cache.rows import Outcome
from extract.compute import Made
from extract.saving import AHEAD, Saver
from fsar_cache.errors import SpaceError


def made(first: int) -> Made:
    return Made(0, first, np.zeros((1, 2), np.float32), [Outcome("ok")])


def test_all_slices_are_saved_in_order_before_the_block_ends() -> None:
    saved: list[int] = []

    def slowly(each: Made) -> None:
        time.sleep(0.001)
        saved.append(each.first)

    with Saver(slowly) as saver:
        for i in range(50):
            saver.put(made(i))
    assert saved == list(range(50))


def test_no_more_than_a_few_wait() -> None:
    let_go, begun = threading.Event(), threading.Semaphore(0)
    with Saver(lambda _: (begun.release(), let_go.wait())) as saver:  # type: ignore[arg-type, return-value]
        saver.put(made(0))
        begun.acquire()
        for i in range(AHEAD):
            saver.put(made(i + 1))
        more = threading.Thread(target=saver.put, args=(made(9),))
        more.start()
        more.join(0.1)
        assert more.is_alive()
        let_go.set()
        more.join()


def test_an_error_reaches_whoever_puts_next_or_the_end() -> None:
    saved: list[int] = []

    def fail(each: Made) -> None:
        if each.first == 2:
            raise SpaceError("the disk is full")
        saved.append(each.first)

    def many() -> None:
        with Saver(fail) as saver:
            for i in range(1000):
                saver.put(made(i))
                time.sleep(0.001)

    def last() -> None:
        with Saver(fail) as saver:
            saver.put(made(2))

    with pytest.raises(SpaceError, match="disk is full"):
        many()
    assert saved == [0, 1]
    with pytest.raises(SpaceError, match="disk is full"):
        last()


def test_what_ends_the_work_is_not_hidden_by_what_ends_the_saving() -> None:
    def fail(_: Made) -> None:
        raise SpaceError("the disk is full")

    def interrupted() -> None:
        with Saver(fail) as saver:
            saver.put(made(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
