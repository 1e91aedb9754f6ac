"""log.csv holds each step once, whatever interrupted the training."""

import pytest

from paddlemix.errors import ConfigurationError
from paddlemix.finetune.monitoring.training_log import COLUMNS, TrainingLog, read_log


def logged(path, steps, start=0):
    log = TrainingLog(path)
    log.start(start)
    for step in steps:
        log.append(step, {"loss": 1.0 / step, "learning_rate": 1e-5, "tokens": 100 * step, "unknown": 3.0})
    return log


def test_a_row_has_the_columns_in_order_and_empty_cells_for_what_was_not_measured(tmp_path):
    log = logged(tmp_path / "log.csv", [10])
    log.append(10, {"eval_loss": 2.5, "epoch": 0.5, "eval_exact_answers": None})
    assert (tmp_path / "log.csv").read_text().splitlines() == [
        ",".join(COLUMNS),
        "10,,0.1,1e-05,1000,,,,,",
        "10,0.5,,,,,,2.5,,",
    ]


def test_what_is_read_is_what_was_written(tmp_path):
    log = logged(tmp_path / "log.csv", [1, 2, 3])
    rows = read_log(tmp_path / "log.csv")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows == [pytest.approx(row, rel=1e-6) for row in log.rows]
    assert isinstance(rows[0]["tokens"], int)


def test_resuming_drops_the_rows_after_the_step_resumed_from(tmp_path):
    logged(tmp_path / "log.csv", [10, 20, 30, 40])
    log = logged(tmp_path / "log.csv", [25, 30], start=20)
    assert [row["step"] for row in log.rows] == [10, 20, 25, 30]
    assert [row["step"] for row in read_log(tmp_path / "log.csv")] == [10, 20, 25, 30]


def test_a_fresh_start_begins_a_new_file(tmp_path):
    logged(tmp_path / "log.csv", [10, 20])
    logged(tmp_path / "log.csv", [5])
    assert [row["step"] for row in read_log(tmp_path / "log.csv")] == [5]


@pytest.mark.parametrize("cut", [1, 4, 12])
def test_a_row_that_a_kill_cut_short_is_left_out(tmp_path, cut):
    path = tmp_path / "log.csv"
    logged(path, [10, 20, 120])
    path.write_bytes(path.read_bytes()[:-cut])
    logged(path, [], start=1000)
    assert [row["step"] for row in read_log(path)] == [10, 20]


def test_columns_of_another_edition_are_matched_by_name(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("loss,other,step\n0.5,7,10\nx,7,20\n")
    logged(path, [], start=30)
    assert read_log(path) == [{"step": 10, "loss": 0.5}]


def test_a_folder_in_place_of_the_file_is_told_in_one_line(tmp_path):
    (tmp_path / "log.csv").mkdir()
    with pytest.raises(ConfigurationError, match=r"log\.csv cannot be written") as error:
        TrainingLog(tmp_path / "log.csv").start(0)
    assert "\n" not in str(error.value)
