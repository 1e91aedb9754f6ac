"""The output directory: which training is in it, and that results appear whole."""

import json

import pytest

from examples.bundled_model.scenes.lesson import write_lesson
from paddlemix.errors import CheckpointError, ConfigurationError, TargetError
from paddlemix.finetune.configuration import FinetuneConfig
from paddlemix.finetune.output import Run, content_hash, find_run, lock_output_dir, prepare_output_dir, write_result


def config(folder, **options):
    return FinetuneConfig(**{"data": "talks.json", "output_dir": str(folder), **options})


def begun(folder, **options):
    run = Run(config(folder, **options).to_dict(), 1, content_hash(["a", "b"]))
    prepare_output_dir(folder, run, None)
    return run


def test_a_new_directory_is_made_and_found_again(tmp_path):
    folder = tmp_path / "new"
    assert find_run(config(folder)) is None
    run = begun(folder)
    assert find_run(config(folder)) == run
    (folder / "checkpoint-8").mkdir()
    (folder / "checkpoint-9.writing").mkdir()
    assert prepare_output_dir(folder, run, run) == folder / "checkpoint-8"
    assert not (folder / "checkpoint-9.writing").exists()


def test_options_that_change_nothing_of_what_is_learned_may_change(tmp_path):
    begun(tmp_path)
    assert find_run(config(tmp_path, save_steps=3, logging_steps=2, dataloader_num_workers=0, recompute=True))


def test_options_that_an_older_version_did_not_know_count_as_their_defaults(tmp_path):
    run = begun(tmp_path)
    kept = {name: value for name, value in run.config.items() if name not in ("clamp_boxes", "lora_targets")}
    prepare_output_dir(tmp_path, Run(kept, 1, run.data_hash), None)
    assert find_run(config(tmp_path)).config == kept
    with pytest.raises(ConfigurationError, match="^clamp_boxes: got True, .* was begun with False"):
        find_run(config(tmp_path, clamp_boxes=True))


@pytest.mark.parametrize(("name", "value"), [("lora_r", 8), ("learning_rate", 1e-3), ("data", "b.json"), ("seed", 2)])
def test_other_options_are_refused_by_name(tmp_path, name, value):
    begun(tmp_path)
    with pytest.raises(ConfigurationError, match=f"^{name}: got .* was begun with"):
        find_run(config(tmp_path, **{name: value}))


def test_a_training_that_is_not_to_be_resumed_is_not_overwritten(tmp_path):
    begun(tmp_path)
    with pytest.raises(ConfigurationError, match="holds a training already"):
        find_run(config(tmp_path, resume=False))


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_a_model_is_not_overwritten(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigurationError, match="holds a model"):
        find_run(config(tmp_path))


def test_checkpoints_of_who_knows_what_are_not_taken(tmp_path):
    (tmp_path / "checkpoint-3").mkdir()
    with pytest.raises(ConfigurationError, match="holds checkpoints, but no finetune.json"):
        find_run(config(tmp_path))


@pytest.mark.parametrize("name", ["notes.txt", "log.csv", "photos/a.jpg"])
def test_a_directory_with_files_of_others_is_refused(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(TargetError, match=f"did not write .{name.partition('/')[0]}.; name another folder"):
        find_run(config(tmp_path))


def test_a_finished_result_of_another_program_is_refused(tmp_path):
    write_lesson("robot", tmp_path / "lesson", images=1, test_images=1)
    with pytest.raises(TargetError, match="holds a finished result .*; name another folder$"):
        find_run(config(tmp_path / "lesson"))


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    run = begun(tmp_path)
    (tmp_path / ".log.csv.0123abcd.tmp").touch()
    prepare_output_dir(tmp_path, run, run)
    assert [path.name for path in tmp_path.iterdir()] == ["finetune.json"]


def test_other_records_and_other_sizes_of_a_step_are_refused(tmp_path):
    run = begun(tmp_path)
    rows = {**run.config, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}
    with pytest.raises(ConfigurationError, match=r"has 1 rows on 1 process\(es\), now 12 on 2"):
        prepare_output_dir(tmp_path, Run(rows, 2, run.data_hash), run)
    begun_with_six = Run({**rows, "gradient_accumulation_steps": 1}, 2, run.data_hash)
    prepare_output_dir(tmp_path, Run(rows, 1, run.data_hash), begun_with_six)
    with pytest.raises(ConfigurationError, match="data: the records are not those"):
        prepare_output_dir(tmp_path, Run(run.config, 1, content_hash(["a", "c"])), run)


def test_a_file_in_the_way_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="is a file"):
        find_run(config(tmp_path / "file"))
    for write in (begun, lambda folder: lock_output_dir(config(folder), None)):
        with pytest.raises(CheckpointError, match="cannot be written"):
            write(tmp_path / "file" / "below")


def test_a_directory_is_of_one_training_at_a_time(tmp_path):
    folder = tmp_path / "out"
    with lock_output_dir(config(folder), None):
        with pytest.raises(CheckpointError, match="out: another process is writing here"):
            lock_output_dir(config(folder), None)
    assert list(folder.iterdir()) == []
    with lock_output_dir(config(folder), None):
        pass


def test_a_training_that_another_process_began_meanwhile_is_not_written_over(tmp_path):
    run = begun(tmp_path)
    with pytest.raises(ConfigurationError, match="another process has just written"):
        lock_output_dir(config(tmp_path), None)
    with lock_output_dir(config(tmp_path), run):  # the refusal has left no lock
        pass


def test_a_damaged_run_file_is_told(tmp_path):
    (tmp_path / "finetune.json").write_text(json.dumps({"config": 3}))
    with pytest.raises(ConfigurationError, match="is not understood"):
        find_run(config(tmp_path))


def test_a_result_that_was_not_finished_does_not_count(tmp_path):
    run = begun(tmp_path)

    def write_half(folder):
        (folder / "config.json").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_result(tmp_path, run, write_half)
    assert not (tmp_path / "config.json").exists()
    finished = Run(run.config, 1, run.data_hash, {"train_loss": 1.5})
    write_result(tmp_path, finished, lambda folder: (folder / "config.json").write_text("whole"))
    assert (tmp_path / "config.json").read_text() == "whole"
    assert find_run(config(tmp_path)) == finished
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "finetune.json"]
