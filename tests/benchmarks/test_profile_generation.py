import pytest

from benchmarks import profile_generation
from benchmarks.profile_generation import parse_arguments
from tests.benchmarks.programs import ONE_LAYER, run, tables


def test_prints_speed_and_memory_of_each_format_and_length():
    printed = run("profile_generation.py", *ONE_LAYER, "--formats", "bf16", "int4", "--lengths", "270", "300")
    (rows,) = tables(printed)
    assert [(row["format"], row["tokens in all"]) for row in rows] == [
        ("bf16", "270"), ("bf16", "300"), ("int4", "270"), ("int4", "300"),
    ]  # fmt: skip
    assert all(float(row["tokens/s"]) > 0 and float(row["peak memory, GB"]) > 0.1 for row in rows)
    assert "best of 4 steps at 5 lengths, averaged" in printed


def test_every_step_can_be_generated_on_a_cpu_too():
    printed = run("profile_generation.py", *ONE_LAYER, "--formats", "bf16", "--lengths", "262", "--every-step")
    assert "every token generated" in printed and len(tables(printed)[0]) == 1


def test_steps_at_some_lengths_stand_for_all(monkeypatch):
    # A step takes 1 s and another second for each position before it; from 258 to 1258 positions that is 759 s.
    now = [0.0]

    class Model:
        class config:
            class visual:
                image_start_id, image_pad_id, n_queries, image_size = 0, 2, 256, 4

        def __call__(self, ids, past_key_values, images=None, logits_to_keep=None):
            from types import SimpleNamespace

            import paddle

            if images is None:
                now[0] += 1 + past_key_values.length
            return SimpleNamespace(logits=paddle.zeros([1, ids.shape[1], 4]))

        def new_cache(self, batch, prompt, capacity):
            from types import SimpleNamespace

            return SimpleNamespace(length=prompt)

    monkeypatch.setattr(profile_generation.time, "perf_counter", lambda: now[0])
    assert profile_generation.seconds_per_token(Model(), 1259, False) == pytest.approx(759)


def test_a_length_within_the_context_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--lengths", "258"])
    assert "expected more than the context of 258" in capsys.readouterr().err
