"""Batches in order, whoever makes them, and errors that arrive."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from paddlemix.data.batching import BatchLayout, TrainingPlan
from paddlemix.data.collation import Collator
from paddlemix.data.dataset import ConversationDataset, PlanSampler
from paddlemix.data.loading import BatchLoader
from paddlemix.data.records import read_records
from paddlemix.data.workers import parallel_map
from paddlemix.errors import ImageError, NotEnoughMemoryError
from tests.data.building import talk, write_image, write_json


@pytest.fixture
def dataset(tmp_path, processor):
    for index in range(3):
        write_image(tmp_path / f"{index}.png", color=("red", "green", "blue")[index])
    entries = [
        talk(f"Picture 1: <img>{i % 3}.png</img>\nq{i}" if i % 2 else f"q{i}", "the " * (i % 5 + 1)) for i in range(17)
    ]
    return ConversationDataset(read_records(write_json(tmp_path / "data.json", entries)), processor.tokenizer)


def plan_for(dataset, rows=2, **options):
    examples = [dataset.example(index) for index in range(len(dataset))]
    lengths, targets = (np.asarray(column) for column in zip(*((len(e), e.targets) for e in examples)))
    return TrainingPlan(lengths, targets, BatchLayout(rows, 2, 1, 120, **options), seed=3)


def loader(dataset, processor, plan, first=0, workers=0):
    return BatchLoader(dataset, PlanSampler(plan, 0, first, plan.total_steps(1)), Collator.of(processor), workers)


@pytest.mark.parametrize("packing", [False, True])
def test_workers_give_the_batches_of_one_process_and_any_step_can_be_the_first(dataset, processor, packing):
    plan = plan_for(dataset, packing=packing)
    alone = list(loader(dataset, processor, plan))
    assert len(alone) == len(loader(dataset, processor, plan)) == 2 * plan.total_steps(1)
    assert sorted(i for batch in alone for i in batch["record_ids"].tolist()) == list(range(17))
    for others, skipped in ((loader(dataset, processor, plan, 0, 2), 0), (loader(dataset, processor, plan, 2), 4)):
        others = list(others)
        assert len(others) == len(alone) - skipped
        for ours, theirs in zip(alone[skipped:], others):
            assert sorted(ours) == sorted(theirs)
            assert all((ours[name].numpy() == theirs[name].numpy()).all() for name in ours)


def test_a_process_without_rows_in_the_last_step_gets_a_batch_of_which_nothing_is_learned(dataset, processor):
    *_, last, _ = loader(dataset, processor, plan_for(dataset, rows=8))
    assert last["record_ids"].tolist() == [] and last["input_ids"].shape == [1, 1]
    assert last["labels"].tolist() == [[-100]]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_is_gone_is_told_with_its_record(dataset, processor, tmp_path, workers):
    (tmp_path / "1.png").unlink()
    with pytest.raises(ImageError, match=r"data.json:1: image file '.*1.png' does not exist"):
        list(loader(dataset, processor, plan_for(dataset), workers=workers))


def test_nothing_of_the_workers_is_left_when_an_error_is_told(dataset, processor, tmp_path):
    (tmp_path / "1.png").unlink()
    before = threading.active_count()
    with pytest.raises(ImageError):
        list(loader(dataset, processor, plan_for(dataset), workers=2))
    # threads of the pool would go on to tell of pipes that the end of the process has closed
    assert threading.active_count() == before and multiprocessing.active_children() == []


def test_a_worker_that_is_killed_is_told(dataset, processor):
    class Deadly(Collator):
        def __call__(self, batch):
            os.kill(os.getpid(), signal.SIGKILL)

    plan = plan_for(dataset)
    deadly = BatchLoader(dataset, PlanSampler(plan, 0, 0, 2), Deadly.of(processor), workers=2)
    with pytest.raises(NotEnoughMemoryError, match="one of 2 worker processes was killed"):
        list(deadly)


def test_workers_go_on_for_a_while_when_they_are_told_to_end_with_their_group(dataset, processor):
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # as a training has one, which workers must not inherit
    try:
        batches = iter(BatchLoader(dataset, PlanSampler(plan_for(dataset), 0, 0, 3), Signing.of(processor), workers=1))
        worker = int(next(batches)["process"])
        os.kill(worker, signal.SIGTERM)
        assert int(next(batches)["process"]) == worker
        assert ends(worker)
    finally:
        signal.signal(signal.SIGTERM, before)
        batches.close()


class Signing(Collator):
    """Signs its batches with the process that made them."""

    def __call__(self, batch):
        return {"process": np.asarray([os.getpid()])}


def first_worker(dataset, processor):
    batches = iter(BatchLoader(dataset, PlanSampler(plan_for(dataset), 0, 0, 2), Signing.of(processor), workers=1))
    return int(next(batches)["process"]), batches


def test_workers_end_with_the_loop(dataset, processor):
    worker, batches = first_worker(dataset, processor)
    assert is_running(worker) and worker != os.getpid()
    batches.close()
    assert ends(worker)


FORK = multiprocessing.get_context("fork")


def test_workers_end_when_their_parent_is_killed(dataset, processor):
    receiver, sender = FORK.Pipe(duplex=False)

    def train():
        worker, _batches = first_worker(dataset, processor)
        sender.send(worker)
        os.kill(os.getpid(), signal.SIGKILL)

    parent = FORK.Process(target=train)
    parent.start()
    worker = receiver.recv()
    parent.join()
    assert ends(worker)


def test_workers_of_the_check_end_when_their_parent_is_killed():
    receiver, sender = FORK.Pipe(duplex=False)
    parent = FORK.Process(target=parallel_map, args=(partial(_tell_process, sender), range(100), 1))
    parent.start()
    worker = receiver.recv()
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    assert worker != parent.pid and ends(worker)


def _tell_process(sender, item):
    sender.send(os.getpid())
    time.sleep(0.05)


def ends(process):
    for _ in range(300):
        if not is_running(process):
            return True
        time.sleep(0.1)
    return False


def is_running(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # ended, and not waited for
