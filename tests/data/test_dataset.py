"""The part of the records that is held out."""

from __future__ import annotations

import dataclasses

import pytest

from paddlemix.data.dataset import eval_split
from paddlemix.data.records import read_records
from paddlemix.errors import ConfigurationError
from tests.data.building import talk, write_json


def records(tmp_path, count, name="data.json"):
    return read_records(write_json(tmp_path / name, [talk(f"question {i}", "answer") for i in range(count)]))


def test_about_the_fraction_is_held_out(tmp_path):
    assert eval_split(records(tmp_path, 1000), 0.1).mean() == pytest.approx(0.1, abs=0.03)


def test_what_is_held_out_depends_neither_on_place_nor_on_other_records(tmp_path):
    some, more = records(tmp_path, 200), records(tmp_path, 300, "more.json")[::-1]
    chosen = {r.content_hash for r, held in zip(some, eval_split(some, 0.2)) if held}
    chosen_of_more = {r.content_hash for r, held in zip(more, eval_split(more, 0.2)) if held}
    assert chosen == chosen_of_more & {record.content_hash for record in some}


def test_at_least_one_record_is_held_out_and_one_is_left(tmp_path):
    some = records(tmp_path, 5)
    assert eval_split(some, 1e-6).sum() == 1
    with pytest.raises(ConfigurationError, match="eval_fraction: 0.5 of 1 records leaves none to train on"):
        eval_split(some[:1], 0.5)
    same = [dataclasses.replace(record, content_hash=some[0].content_hash) for record in some]
    with pytest.raises(ConfigurationError, match="leaves none to train on"):
        eval_split(same, 0.1)
