"""The table of applications."""

from __future__ import annotations

import subprocess
import sys

import pytest

from paddlemix.appflow import App, Appflow, AppTask, TaskSpec, register, registry
from paddlemix.errors import ConfigurationError
from paddlemix.zoo import DEFAULT_MODEL


class Shout(AppTask):
    options = {"mark": "what to shout with"}
    inputs = {"prompt": "text"}
    outputs = {"result": "the text, louder"}

    def __init__(self, model, *, device, from_hf_hub, mark="!"):
        self.model, self.device, self.mark = model, device, mark

    def __call__(self, inputs):
        return {**inputs, "result": inputs["prompt"].upper() + self.mark}


class Count(AppTask):
    options = {"unit": "what is counted"}
    outputs = {"length": "of the result"}

    def __init__(self, model, *, device, from_hf_hub, unit="letters"):
        self.model, self.unit, self.resets = model, unit, 0

    def __call__(self, inputs):
        return {**inputs, "length": f"{len(inputs['result'])} {self.unit}"}

    def stream(self, inputs):
        yield "counting"
        return self(inputs)

    def reset(self):
        self.resets += 1


@pytest.fixture
def shouting(monkeypatch):
    """An application of two tasks that joins the table for one test."""
    monkeypatch.setattr(registry, "_APPS", dict(registry._APPS))
    monkeypatch.setitem(sys.modules, "shouting_tasks", sys.modules[__name__])
    return register(
        App(
            "shouting",
            "says it louder and counts",
            (
                TaskSpec("shouting_tasks:Shout", ("loud", "louder"), "loud"),
                TaskSpec("shouting_tasks:Count", ("counter",), "counter"),
            ),
        )
    )


def test_apps_lists_names_and_models_with_the_default_first():
    apps = Appflow.apps()
    assert apps["image2text_generation"][0] == DEFAULT_MODEL
    assert "qwen-vl/qwen-vl-chat-7b" in apps["image2text_generation"]
    assert Appflow.tasks() == sorted(apps)


def test_an_unknown_app_lists_the_known_ones_and_the_nearest():
    with pytest.raises(ConfigurationError, match="image2text_generation.*did you mean 'image2text_generation'"):
        Appflow(app="image2text")
    with pytest.raises(ConfigurationError, match="expected one of"):
        Appflow(app=None)


def test_importing_appflow_imports_no_application_and_nothing_heavy():
    code = (
        "import sys; from paddlemix.appflow import Appflow; Appflow.apps(); "
        "print([m for m in ('paddle', 'paddlenlp', 'numpy', 'PIL', 'paddlemix.appflow.image2text_generation') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_another_app_joins_and_its_tasks_form_a_chain(shouting):
    assert Appflow.apps()["shouting"] == ["loud", "louder", "counter"]
    flow = Appflow("shouting", device_id=-1)
    assert flow(prompt="hey") == {"prompt": "hey", "result": "HEY!", "length": "4 letters"}
    assert [task.model for task in flow.chain] == ["loud", "counter"]
    assert flow.chain[0].device == "cpu"


def test_options_reach_only_the_task_that_knows_them(shouting):
    flow = Appflow("shouting", models=["louder", "counter"], device_id=-1, mark="?", unit="signs")
    assert flow(prompt="so")["length"] == "3 signs"
    assert flow.chain[0].mark == "?" and flow.chain[1].unit == "signs"


def test_the_last_task_streams_and_the_result_comes_afterwards(shouting):
    stream = Appflow("shouting", device_id=-1)(prompt="hey", stream=True)
    assert stream.result is None
    assert list(stream) == ["counting"]
    assert stream.result["length"] == "4 letters"
    assert list(stream) == []


def test_reset_reaches_every_task(shouting):
    flow = Appflow("shouting", device_id=-1)
    flow.reset()
    assert flow.chain[1].resets == 1


def test_help_shows_options_inputs_and_results_of_every_task(shouting, capsys):
    Appflow("shouting", device_id=-1).help()
    text = capsys.readouterr().out
    for word in ("shouting", "mark", "unit", "prompt", "length", "louder"):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": ["loud"]}, r"models: got 1 .*expected 2"),
        ({"models": "loud"}, r"models: got 1 .*expected 2"),
        ({"mode": "static"}, "mode: got 'static'"),
        ({"device_id": -2}, "device_id: got -2"),
        ({"device_id": True}, "device_id: got True"),
        ({"device_id": 4096}, "device: got 'gpu:4096'"),
        ({"from_hf_hub": "yes"}, "from_hf_hub: got 'yes'"),
        ({"marc": "?"}, "option 'marc' is unknown.*did you mean 'mark'.*known: mark, unit"),
    ],
)
def test_a_parameter_that_cannot_work_is_refused_by_name(shouting, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        Appflow("shouting", **arguments)


def test_an_unknown_input_is_refused_by_name(shouting):
    with pytest.raises(ConfigurationError, match="input 'promt' is unknown.*did you mean 'prompt'"):
        Appflow("shouting", device_id=-1)(promt="x")


@pytest.mark.parametrize(
    ("app", "message"),
    [
        (App("image2text_generation", "", (TaskSpec("a:B", (), "m"),)), "registered already"),
        (App("empty", "", ()), "at least one"),
        (App("odd", "", (TaskSpec("module.Class", (), "m"),)), "package.module:Class"),
    ],
)
def test_a_bad_registration_is_refused(app, message):
    with pytest.raises(ConfigurationError, match=message):
        register(app)
    assert app.name not in registry.known_apps() or app.name == "image2text_generation"


def test_a_task_without_a_stream_says_so(shouting):
    with pytest.raises(ConfigurationError, match="no text to stream"):
        AppTask.stream(Shout("m", device="cpu", from_hf_hub=False), {})
