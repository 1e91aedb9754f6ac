"""Epochs: every record once, the same steps however many processes, resumed or not."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddlemix.data.batching import BatchLayout, TrainingPlan, mixture, pack_rows
from paddlemix.errors import ConfigurationError

MODES = ({}, {"group_by_length": True}, {"packing": True})
ROWS, ACCUMULATION, PROCESSES, CAPACITY = 2, 3, 2, 100


def lengths_of(count, seed=0):
    return np.random.default_rng(seed).integers(5, 61, count)


def plan_of(lengths, rows=ROWS, accumulation=ACCUMULATION, processes=PROCESSES, seed=7, **options):
    mixing = {name: options.pop(name) for name in ("sources", "weights") if name in options}
    layout = BatchLayout(rows, accumulation, processes, CAPACITY, **options)
    return TrainingPlan(lengths, lengths // 3, layout, seed=seed, **mixing)


def steps_of(plan, first, last):
    """For each optimizer step all micro-batches of all processes."""
    layout = plan.layout
    columns = [list(plan.micro_batches(process, first, last)) for process in range(layout.processes)]
    return [
        [batch for column in columns for batch in column[start : start + layout.accumulation]]
        for start in range(0, (last - first) * layout.accumulation, layout.accumulation)
    ]


def rows_in(step):
    return Counter(row for batch in step for row in batch.rows)


@pytest.mark.parametrize("mode", MODES)
@given(count=st.integers(1, 60))
def test_an_epoch_has_every_record_exactly_once_and_rows_have_room(mode, count):
    lengths = lengths_of(count)
    plan = plan_of(lengths, **mode)
    steps = steps_of(plan, 0, plan.total_steps(1))
    rows = [row for step in steps for batch in step for row in batch.rows]
    assert sorted(index for row in rows for index in row) == list(range(count))
    assert all(lengths[list(row)].sum() <= CAPACITY for row in rows)
    assert all(len(batch.rows) <= ROWS for step in steps for batch in step)
    assert all(len(row) == 1 for row in rows) or plan.layout.packing


@pytest.mark.parametrize("mode", MODES)
def test_the_steps_are_the_same_for_any_number_of_processes(mode):
    lengths = lengths_of(70)
    one = plan_of(lengths, rows=2, accumulation=6, processes=1, **mode)
    two = plan_of(lengths, rows=1, accumulation=3, processes=4, **mode)
    total = one.total_steps(2)
    assert total == two.total_steps(2)
    for ours, theirs in zip(steps_of(one, 0, total), steps_of(two, 0, total)):
        assert rows_in(ours) == rows_in(theirs)


@pytest.mark.parametrize("mode", MODES)
def test_a_plan_goes_on_at_any_step_as_it_would_have(mode):
    lengths = lengths_of(50)
    total = plan_of(lengths, **mode).total_steps(3)
    whole = steps_of(plan_of(lengths, **mode), 0, total)
    for first in range(total):
        assert steps_of(plan_of(lengths, **mode), first, total) == whole[first:]


@pytest.mark.parametrize("mode", MODES)
def test_epochs_and_seeds_differ(mode):
    lengths = lengths_of(50)
    plan, other = plan_of(lengths, **mode), plan_of(lengths, seed=8, **mode)
    first = plan.epoch(0).records.tolist()
    assert first == plan_of(lengths, **mode).epoch(0).records.tolist()
    assert first != plan.epoch(1).records.tolist()
    assert first != other.epoch(0).records.tolist()


@pytest.mark.parametrize("mode", MODES)
def test_a_step_knows_its_tokens_and_targets_and_divides_them_evenly(mode):
    lengths = lengths_of(50)
    plan = plan_of(lengths, **mode)
    epoch = plan.epoch(0)
    for number, step in enumerate(steps_of(plan, 0, epoch.steps)):
        records = [index for batch in step for row in batch.rows for index in row]
        assert epoch.step_tokens[number] == lengths[records].sum()
        assert epoch.step_targets[number] == (lengths // 3)[records].sum()
        assert len(step) == ACCUMULATION * PROCESSES
        for batch in step:
            assert batch.target_count * ACCUMULATION * PROCESSES == pytest.approx(epoch.step_targets[number])


def test_a_last_step_is_dealt_out_evenly():
    (*_, last) = steps_of(plan_of(lengths_of(16)), 0, 2)
    assert sorted(len(batch.rows) for batch in last) == [0, 0, 1, 1, 1, 1]
    (*_, last) = steps_of(plan_of(lengths_of(21)), 0, 2)
    assert sorted(len(batch.rows) for batch in last) == [1, 1, 1, 2, 2, 2]


def test_rows_of_a_forward_pass_are_about_as_long_on_all_processes():
    lengths = lengths_of(12)
    plan = plan_of(lengths)
    longest = [
        [max(lengths[list(row)].sum() for row in batch.rows) for batch in plan.micro_batches(process, 0, 1)]
        for process in range(PROCESSES)
    ]
    in_order = np.asarray(longest).T.reshape(-1)
    assert (np.diff(in_order) <= 0).all()


def padding_share(plan, lengths):
    fed = real = 0
    for step in steps_of(plan, 0, plan.total_steps(1)):
        for batch in step:
            sizes = [lengths[list(row)].sum() for row in batch.rows]
            fed += len(sizes) * max(sizes, default=0)
            real += sum(sizes)
    return 1 - real / fed


def test_grouping_by_length_and_packing_save_padding():
    lengths = lengths_of(600)
    plain, grouped, packed = (padding_share(plan_of(lengths, accumulation=1, **mode), lengths) for mode in MODES)
    assert grouped < plain / 2
    assert packed < 0.05
    assert len(plan_of(lengths, packing=True).epoch(0).row_ends) <= 1.02 * lengths.sum() / CAPACITY + 1


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(50, 120))
def test_packed_rows_hold_everything_and_at_most_one_is_half_empty(lengths, capacity):
    lengths = np.asarray(lengths)
    rows = pack_rows(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    filled = [lengths[row].sum() for row in rows]
    assert max(filled) <= capacity
    assert sum(2 * size <= capacity for size in filled) <= 1


def test_weights_say_how_often_an_epoch_has_the_records_of_a_file():
    sources = np.repeat([0, 1, 2], [10, 6, 5])
    plan = plan_of(lengths_of(21), sources=sources, weights=(1.0, 2.0, 0.5))
    epochs = [Counter(plan.epoch(number).records.tolist()) for number in range(4)]
    for epoch in epochs:
        assert all(epoch[index] == 1 for index in range(10))
        assert all(epoch[index] == 2 for index in range(10, 16))
        assert sum(epoch[index] for index in range(16, 21)) in (2, 3)
    for first, second in zip(epochs[::2], epochs[1::2]):
        together = first + second
        assert all(together[index] == 1 for index in range(16, 21))
    assert plan.total_steps(2) == plan.epoch(0).steps + plan.epoch(1).steps


def test_an_epoch_of_a_part_goes_through_all_records_before_any_comes_again():
    sources = np.zeros(7, np.int64)
    seen = np.concatenate([mixture(sources, (0.3,), 1, epoch) for epoch in range(10)])
    assert len(seen) == 21
    assert all(sorted(seen[start : start + 7]) == list(range(7)) for start in (0, 7, 14))


def test_a_part_of_a_file_is_counted_without_what_floats_are_off():
    assert [len(mixture(np.zeros(100, np.int64), (0.29,), 1, epoch)) for epoch in range(4)] == [29] * 4


@pytest.mark.parametrize(("epochs", "steps"), [(1, 5), (2, 10), (0.5, 3), (2.1, 11), (2.2, 11), (0.0001, 1)])
def test_steps_of_epochs_and_of_parts_of_them(epochs, steps):
    plan = plan_of(lengths_of(49))
    assert plan.total_steps(epochs) == steps
    assert [plan.locate(step) for step in (0, 4, 5, 12)] == [(0, 0), (0, 4), (1, 0), (2, 2)]


def test_nothing_to_train_on_and_records_longer_than_a_row_are_told():
    with pytest.raises(ConfigurationError, match="no records are left to train on"):
        plan_of(np.zeros(0, np.int64))
    with pytest.raises(ConfigurationError, match="max_length: got 100, expected at least the 101 ids of a record"):
        plan_of(np.asarray([5, 101]), packing=True)
    with pytest.raises(ConfigurationError, match="the weights leave no records in epoch 0"):
        plan_of(np.asarray([5]), weights=(0.4,)).total_steps(1)


def test_any_number_of_like_epochs_is_counted_at_once(monkeypatch):
    plan = plan_of(lengths_of(100))
    planned = []
    monkeypatch.setattr(plan, "_plan_epoch", lambda epoch: planned.append(epoch))
    steps = plan.steps(0)
    assert plan.total_steps(1e9) == 10**9 * steps
    assert plan.locate(10**9 * steps + 3) == (10**9, 3)
    assert plan.steps(5) == steps and planned == []


@pytest.mark.parametrize("weights", [(0.3, 1.0), (0.01, 0.5), (2.7, 1.2)])
def test_epochs_of_parts_of_files_are_counted_as_they_are_planned(weights):
    lengths, sources = lengths_of(60), np.repeat([0, 1], 30)
    counted = plan_of(lengths, sources=sources, weights=weights)
    planned = plan_of(lengths, sources=sources, weights=weights)
    for epoch in range(12):
        assert counted.steps(epoch) == planned.epoch(epoch).steps


def test_more_epochs_than_can_be_counted_are_refused():
    plan = plan_of(lengths_of(60), weights=(0.5,))
    with pytest.raises(ConfigurationError, match="num_train_epochs: got 1e\\+09, expected at most 10000 .* max_steps"):
        plan.total_steps(1e9)
