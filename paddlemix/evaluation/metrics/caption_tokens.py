"""Tokens of captions as caption metrics count them: Penn Treebank, lower case, without punctuation.

Source: pycocoevalcap's tokenizer (Stanford CoreNLP 3.4.1), which needs Java. Without it NLTK's Treebank tokenizer
comes close: they differ for quotes, abbreviations at the end and some symbols.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ...errors import EvaluationError
from ...utils.dependencies import require

DROPPED = frozenset("'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split())
_LINE_SEPARATORS = re.compile("[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]")
_TYPOGRAPHY = str.maketrans({"“": '"', "”": '"', "‘": "`", "’": "'", "–": "--", "—": "--"})
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_JAR = Path("tokenizer", "stanford-corenlp-3.4.1.jar")


def has_java() -> bool:
    """Whether the tokenizer that caption scores are defined with can run."""
    return shutil.which("java") is not None


def tokenize(captions: Sequence[str], *, approximate: bool | None = None) -> list[str]:
    """Each caption as its tokens with one space between them.

    Args:
        captions: line separators within them count as spaces.
        approximate: use NLTK; None: where there is no Java.

    Raises:
        MissingDependencyError: pycocoevalcap or NLTK is not installed.
        EvaluationError: the tokenizer failed or lost count of the captions.
    """
    lines = [_LINE_SEPARATORS.sub(" ", caption) for caption in captions]
    if approximate is None:
        approximate = not has_java()
    tokenized = _tokenize_without_java(lines) if approximate else _tokenize_with_java(lines)
    return [" ".join(token for token in tokens if token and token not in DROPPED) for tokens in tokenized]


def caption_package() -> Path:
    """The directory of pycocoevalcap, whose scorers are imported one by one.

    Raises:
        MissingDependencyError: it is not installed.
    """
    # The package has no module of its own, only subpackages.
    return Path(next(iter(require("pycocoevalcap", "caption scores").__path__)))


def _tokenize_with_java(lines: Sequence[str]) -> list[list[str]]:
    if not lines:
        return []
    # The file lies in a directory of its own: the package's own wrapper writes beside the jar, which may be read-only.
    with tempfile.TemporaryDirectory(prefix="paddlemix-captions-") as directory:
        path = Path(directory, "captions.txt")
        path.write_bytes("\n".join(lines).encode("utf-8", "replace"))
        command = ["java", "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-cp", str(caption_package() / _JAR)]
        command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", str(path)]
        done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().split("\n")[-1]
        raise EvaluationError(f"captions: java ended with status {done.returncode}: {last}; check that it runs")
    output = done.stdout.decode("utf-8", "replace").removesuffix("\n")
    tokenized = [line.rstrip().split(" ") for line in output.split("\n")]
    if not any(lines[len(tokenized) :]):  # empty captions at the end have no line of their own
        tokenized += [[""]] * (len(lines) - len(tokenized))
    if len(tokenized) != len(lines):
        raise EvaluationError(f"captions: {len(lines)} went into the tokenizer and {len(tokenized)} came out")
    return tokenized


def _tokenize_without_java(lines: Sequence[str]) -> list[list[str]]:
    tokenizer = require("nltk", "tokens of captions without Java").tokenize.TreebankWordTokenizer()
    tokenized = [tokenizer.tokenize(line.lower().translate(_TYPOGRAPHY)) for line in lines]
    return [[_BRACKETS.get(token, token) for token in tokens] for tokens in tokenized]
