"""An engine without a model that does what suites ask of a model that uses tools."""

from __future__ import annotations

import json
import re

from paddlemix.engine.request import Request
from tests.serving.fake_engine import FakeEngine


class ToolUser(FakeEngine):
    """Answers with a form where it must have one, calls the tool that it is told of, and repeats what that returned."""

    def add(self, request: Request) -> None:
        """Take a request, and choose the answer to it."""
        prompt = self.tokenizer.decode(list(request.prompt_ids))
        self.answer = answer_to(prompt, forced=request.grammar is not None)
        super().add(request)


def answer_to(prompt: str, *, forced: bool) -> str:
    """What a model that understood the prompt would write."""
    observed = re.findall(r"Observation: (.*)\nThought:$", prompt)
    if observed:
        return f" I now know the final answer.\nFinal Answer: {observed[-1]}"
    tool = re.search(r"should be one of \[(\w+)", prompt)
    if tool is not None:
        words = re.search(r'"apiwells[\w-]*"|apiwells[\w-]*', prompt.partition("Question:")[2])
        arguments = {"challenge": words[0].strip('"')} if words else {}
        return f"Thought: I need it.\nAction: {tool[1]}\nAction Input: {json.dumps(arguments)}"
    return json.dumps({"name": "diagnostic", "value": 42}) if forced else "Hello."
