"""What an answer says: the option it chooses."""

from __future__ import annotations

import re

from ..errors import EvaluationError
from .metrics.choice import choose
from .records import Answer, Question

_LETTER = re.compile(r"\(?([A-H])(?![A-Za-z])")


def chosen_option(question: Question, answer: Answer) -> int | None:
    """The option of an answer: by its losses, else by the letter that its text begins with; None where there is none.

    Raises:
        EvaluationError: it has another number of losses than there are options.
    """
    if answer.losses:
        if len(answer.losses) != len(question.choices):
            raise EvaluationError(f"losses of answer {answer.id}: got {len(answer.losses)}, expected one an option")
        return choose(answer.losses)
    found = _LETTER.match(answer.text.strip())
    options = [choice.strip() for choice in question.choices]
    return options.index(found[1]) if found and found[1] in options else None
