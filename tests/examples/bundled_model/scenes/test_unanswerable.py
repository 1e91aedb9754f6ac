"""Weights that a scene cannot satisfy are an error, not a search without end."""

import numpy as np
import pytest

from examples.bundled_model.scenes import tasks
from examples.bundled_model.scenes.scene import generate_scene
from paddlemix.errors import ConfigurationError


@pytest.mark.parametrize("weights", [{"word": 1.0}, {"word": 1.0, "caption": 0.0}, {"caption": 0.0}, {}])
def test_a_scene_that_has_nothing_to_ask_for_these_tasks_is_refused(weights):
    scene = generate_scene(3, size=64, num_objects=1, sign=False)
    with pytest.raises(ConfigurationError, match="nothing to ask for (word|no task); add other tasks"):
        tasks.make_conversations(scene, np.random.default_rng(0), 2, weights)
