"""``paddlemix serve`` with replicas, as a file and a command line describe them."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from paddlemix.cli.scale_out import arguments_of, plan, read_config
from paddlemix.errors import ConfigurationError, MissingDependencyError
from paddlemix.serving.replicas.options import Cluster, shares

TWO = {
    "max_queue": 5,
    "models": [
        {"model_name_or_path": "/models/a", "replicas": 2, "quantization": "int4", "exif_transpose": True},
        {"model_name_or_path": "/models/b", "served_model_name": "second/one", "max_queue": 9, "replica_gpus": 2},
    ],
}


def test_a_command_line_is_one_model():
    told = plan({}, ["--replicas", "3", "--port", "1", "--gateways", "2"], {})
    assert len(told.models) == 1 and told.models[0].replicas == 3 and told.gateways == 2 and told.cluster is None
    assert told.settings.port == 1 and told.settings.is_loopback and told.settings.api_keys == ()
    assert told.models[0].name == "paddlemix-qwen-vl-scenes"


def test_a_file_has_several_models_and_what_they_share(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(json.dumps(TWO))  # JSON is YAML
    first, second = plan(read_config(str(path)), ["--config", str(path), "--max_rows", "4"], {}).models
    assert first.settings.model_name == "a" and first.replicas == 2 and first.options.quantization == "int4"
    assert first.options.exif_transpose is True and first.settings.limits.max_queue == 5
    assert second.name == "second-one" and second.replicas == 1 and second.gpus == 2
    assert second.settings.limits.max_queue == 9 and second.options.quantization is None
    assert first.engine.max_rows == second.engine.max_rows == 4


def test_the_command_line_counts_before_what_the_file_says_for_all():
    told = plan({"port": 1, "models": [{}, {"served_model_name": "b", "port": 3}]}, ["--port", "2"], {})
    assert [model.settings.port for model in told.models] == [2, 3]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"modls": []}, "modls: no option"),
        ({"config": "x"}, "config: no option"),
        ({"models": []}, "models: got none"),
        ({"models": [{}, {}]}, "two are called"),
        ({"models": {"a": 1}}, "models: expected a list"),
        ({"replicas": 0}, "replicas"),
        ({"replicas": "many"}, "replicas"),
        ({"replicas": 5000}, "replicas: got 5000"),
        ({"replica_gpus": -1}, "replica_gpus"),
        ({"allow_no_key": "yes"}, "allow_no_key: got 'yes'"),
        ({"port": {"a": 1}}, "port: got a dict"),
        ({"host": "0.0.0.0"}, "there is no API key"),
        ({"quantization": "int3"}, "quantization"),
    ],
)
def test_what_cannot_be_is_one_line(fields, message):
    with pytest.raises(ConfigurationError, match=message) as told:
        plan(fields, [], {})
    assert "\n" not in str(told.value)


def test_values_become_a_command_line():
    assert arguments_of({"port": 1, "allow_no_key": True, "trusted_tags": False, "background": None}) == [
        "--port=1", "--allow_no_key",
    ]  # fmt: skip
    assert arguments_of({"allowed_host": ["a", "b"], "exif_transpose": False}) == [
        "--allowed_host=a", "--allowed_host=b", "--exif_transpose=false",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["- a\n", "a: [", "!!python/object/apply:os.getcwd []\n", "", "[" * 5000])
def test_a_file_that_is_no_list_of_options_is_refused(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="config"):
        read_config(str(path))
    with pytest.raises(ConfigurationError, match="nowhere"):
        read_config(str(tmp_path / "nowhere"))


def test_replicas_share_the_processors_or_have_gpus():
    model = plan({}, ["--replicas", "2"], {}).models[0]
    machine, with_gpus = Cluster(16, 0, 16), Cluster(32, 8, 16)
    assert model.needs(machine, 2) == (8, 0) and model.needs(machine, 64) == (1, 0)
    assert model.needs(Cluster(64, 0, 16), 2) == (16, 0), "a replica is on one machine"
    assert model.needs(with_gpus, 2) == (1, 1)
    assert plan({}, ["--replicas", "2", "--device", "cpu"], {}).models[0].needs(with_gpus, 2) == (16, 0)
    assert plan({}, ["--replicas", "2", "--tensor_parallel", "4"], {}).models[0].needs(with_gpus, 2) == (1, 4)
    chosen = plan({}, ["--replicas", "2", "--replica_cpus", "3", "--replica_gpus", "0"], {}).models[0]
    assert chosen.needs(with_gpus, 2) == (3, 0)


def test_replicas_for_which_there_is_no_room_are_refused():
    three = plan({}, ["--replicas", "3"], {}).models
    assert shares(three, Cluster(3, 0, 3)) == [(1, 0)]
    with pytest.raises(ConfigurationError, match="3 need 3 processors, and there are 2"):
        shares(three, Cluster(2, 0, 2))
    with pytest.raises(ConfigurationError, match="3 need 3 GPUs, and there are 2"):
        shares(three, Cluster(8, 2, 8))
    assert shares(three, Cluster(2, 0, 2), may_grow=True) == [(1, 0)]


def test_without_ray_it_says_what_to_install(monkeypatch):
    from paddlemix.cli.commands import serve
    from paddlemix.utils import dependencies

    found = dependencies.importlib.util.find_spec
    monkeypatch.setattr(dependencies.importlib.util, "find_spec", lambda name: None if name == "ray" else found(name))
    with pytest.raises(MissingDependencyError, match=r"cpu,serve,ray"):
        serve.main(["--replicas", "2"])
