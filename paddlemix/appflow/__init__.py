"""Appflow: an application by its name, as one callable.

    from paddlemix.appflow import Appflow

    task = Appflow(app="image2text_generation", models=["qwen-vl/qwen-vl-chat-7b"])
    print(task(image="street.jpg", prompt="这是什么？")["result"])

``registry``  the table of applications: names, tasks, known models; other packages may add to it
``appflow``   :class:`Appflow`, which builds the tasks of an application and calls one after the other
``task``      what a task is: a callable from dict to dict
``image2text_generation``  questions about images, answered by Qwen-VL

Importing this package loads no application, and neither Paddle nor PaddleNLP.
"""

from __future__ import annotations

from ..chat.stream import TextStream
from .appflow import Appflow
from .registry import App, TaskSpec, register
from .task import AppTask

__all__ = ["App", "AppTask", "Appflow", "TaskSpec", "TextStream", "register"]
