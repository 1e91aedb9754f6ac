"""The callbacks, told of a training event by event, and as PaddleNLP's Trainer tells them."""

import csv
import io
import logging
from types import SimpleNamespace

import paddle
import pytest
from paddlenlp.trainer import Trainer, TrainingArguments

from paddlemix.errors import MissingDependencyError
from paddlemix.finetune.monitoring import callbacks as module
from paddlemix.finetune.monitoring import monitor_training, remove_default_callbacks
from paddlemix.finetune.monitoring.callbacks import ProgressCallback, ThroughputCallback


class Clock:
    """Seconds as the test sets them."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Run:
    """Tells callbacks of a training."""

    def __init__(self, callbacks, total, start=0, first_process=True):
        self.callbacks = callbacks
        self.state = SimpleNamespace(global_step=start, max_steps=total, epoch=0.0, is_world_process_zero=first_process)
        self.tell("on_train_begin")

    def tell(self, event, **arguments):
        for callback in self.callbacks:
            getattr(callback, event)(None, self.state, None, **arguments)

    def step(self, number):
        self.state.global_step = number
        self.tell("on_step_end")

    def log(self, number, **logs):
        self.step(number)
        logs = {"loss": 1.0 / number, "learning_rate": 1e-5, "tokens": 100 * number, **logs}
        self.tell("on_log", logs=logs)
        return logs


def test_tokens_per_second_leave_out_evaluation_and_saving():
    clock = Clock()
    run = Run([ThroughputCallback(clock)], total=10)
    clock.now += 4
    assert run.log(1)["tokens_per_second"] == pytest.approx(25)
    for _ in range(2):
        clock.now += 1
        run.step(run.state.global_step + 1)
        clock.now += 1000
        run.tell("on_evaluate", metrics={})
        clock.now += 5000
        run.tell("on_save")
    clock.now += 2
    assert run.log(4)["tokens_per_second"] == pytest.approx(300 / 4)


def test_the_first_log_after_resuming_has_no_speed_and_later_ones_have():
    clock = Clock()
    run = Run([ThroughputCallback(clock)], total=10, start=5)
    clock.now += 1
    assert "tokens_per_second" not in run.log(6)
    clock.now += 2
    assert run.log(7)["tokens_per_second"] == pytest.approx(50)


def test_plain_progress_is_a_line_per_log_and_evaluation():
    clock, stream = Clock(), io.StringIO()
    run = Run([ProgressCallback(stream, clock)], total=20)
    clock.now += 60
    run.log(1)
    clock.now += 4.5
    run.log(10, tokens_per_second=200.0)
    run.tell("on_evaluate", metrics={"eval_loss": 2.0, "eval_iou_accuracy": 0.5})
    run.tell("on_log", logs={"train_runtime": 3.0})
    run.tell("on_train_end")
    assert stream.getvalue().splitlines() == [
        " 1/20  loss 1.0000  lr 1.00e-05  estimating the time left",
        "10/20  loss 0.1000  lr 1.00e-05  200 tokens/s  0:05 left",
        "step 10:  eval_loss 2.0000  eval_iou_accuracy 0.5000",
    ]


def test_the_time_left_after_resuming_counts_the_steps_of_this_run_only_without_the_first():
    clock, stream = Clock(), io.StringIO()
    run = Run([ProgressCallback(stream, clock)], total=1000, start=900)
    clock.now += 500
    run.step(901)
    clock.now += 9
    run.log(910)
    first, second = stream.getvalue().splitlines()
    assert first == "resuming after step 900 of 1000"
    assert second.endswith("1:30 left")


def monitored(folder, steps, *, start=0, visualdl=True, total=100):
    with monitor_training(folder, visualdl=visualdl) as monitor:
        run = Run(monitor.callbacks, total, start)
        for step in steps:
            run.log(step)
        run.tell("on_evaluate", metrics={"eval_loss": 0.25, "eval_iou_accuracy": 0.75})
        if steps[-1] == total:
            run.tell("on_train_end")
        else:
            run.tell("on_save")


def column(path, name):
    with path.open() as file:
        return [row[name] for row in csv.DictReader(file)]


def test_a_resumed_run_goes_on_in_all_its_files(tmp_path):
    monitored(tmp_path, [25, 50, 75])
    assert (tmp_path / "curves.png").exists()
    monitored(tmp_path, [75, 100], start=50)
    assert column(tmp_path / "log.csv", "step") == ["25", "50", "75", "100", "100"]
    assert column(tmp_path / "log.csv", "eval_iou_accuracy") == ["", "", "", "", "0.75"]

    from visualdl import LogReader

    (records,) = (tmp_path / "visualdl").iterdir()
    reader = LogReader(file_path=str(records))
    assert [point.id for point in reader.get_data("scalar", "train/loss")] == [25, 50, 75, 100]
    assert [point.value for point in reader.get_data("scalar", "eval/iou_accuracy")] == [0.75]


def test_other_processes_write_nothing(tmp_path, capsys):
    with monitor_training(tmp_path, visualdl=True) as monitor:
        run = Run(monitor.callbacks, total=10, first_process=False)
        run.log(10)
        monitor.show_status("answering")
        run.tell("on_evaluate", metrics={"eval_loss": 1.0})
        run.tell("on_save")
        run.tell("on_train_end")
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr() == ("", "")


def test_visualdl_is_asked_for_only_where_it_is_wanted(tmp_path, monkeypatch):
    def require(package, feature):
        if package == "visualdl":
            raise MissingDependencyError(f"{feature} needs {package}", name=package)

    monkeypatch.setattr(module, "require", require)
    monitored(tmp_path, [100], visualdl=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "log.csv"]
    with pytest.raises(MissingDependencyError), monitor_training(tmp_path, visualdl=True):
        pass


def test_after_an_error_the_logger_is_as_before_and_the_line_is_ended(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    level = logging.getLogger("PaddleNLP").level
    with pytest.raises(RuntimeError), monitor_training(tmp_path, visualdl=False) as monitor:
        assert logging.getLogger("PaddleNLP").level == logging.WARNING
        Run(monitor.callbacks, total=10).log(5)
        raise RuntimeError
    assert logging.getLogger("PaddleNLP").level == level
    assert stream.getvalue().endswith("\n")


def test_a_run_of_the_trainer_shows_this_projects_lines_only(tmp_path, capfd):
    class Model(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.linear = paddle.nn.Linear(2, 1)

        def forward(self, x):
            return {"loss": self.linear(x).mean()}

    class Data(paddle.io.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            return {"x": [1.0, float(index)]}

    arguments = {"max_steps": 4, "logging_steps": 2, "save_strategy": "no", "report_to": [], "disable_tqdm": True}
    with monitor_training(tmp_path, visualdl=False) as monitor:
        trainer = Trainer(
            Model(),
            args=TrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=2, device="cpu", **arguments),
            train_dataset=Data(),
            callbacks=monitor.callbacks,
        )
        remove_default_callbacks(trainer)
        trainer.train()
    captured = capfd.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert [line.split()[0] for line in lines] == ["2/4", "4/4"]
    assert column(tmp_path / "log.csv", "step") == ["2", "4"]
    assert (tmp_path / "curves.png").exists()
