"""What low-bit weights cost in accuracy, on the bundled model and drawn scenes.

``python benchmarks/accuracy_quantized.py``                    the table of docs/quantization.md
``python benchmarks/accuracy_quantized.py --count 10 --scenes 20 --calibration 20``    in a minute: does it run?

Prints a Markdown table with one row for each kind of weights. *Divergence* is the mean Kullback-Leibler divergence of
the next token's distribution from that of the float32 model, in thousandths of a nat, and *same token* how often the
likeliest token is the same; both over the answers to unseen questions, each token after the right ones before it. Then
the share of right answers when the model answers for itself, English and Chinese together. int4-gptq is calibrated on
scenes of its own. int4 and nf4 rows have int8
head and vision. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.bundled_model.scenes import evaluate
from examples.bundled_model.scenes.answering import answer_function
from examples.bundled_model.scenes.scene import generate_scene
from examples.bundled_model.scenes.tasks import LANGUAGES, make_conversations
from paddlemix import ops
from paddlemix.data.calibration import model_inputs
from paddlemix.inference import LoadedModel, load_model
from paddlemix.models.qwen_vl.messages import Message, user_message
from paddlemix.quantization import calibrate, save_gptq
from paddlemix.quantization.plan import plan_for, weight_bytes
from paddlemix.zoo import DEFAULT_MODEL, DEFAULT_MODEL_DIR

# The training's seeds stay below 2**31, the evaluation's begin at 2**40.
CALIBRATION_SEED, DIVERGENCE_SEED = 2**33, 2**34
CONVERSATIONS = 2
"""About each scene."""
MAX_LENGTH = 1024
BATCH = 32
SCORES = {  # task -> the metric that stands for it
    "refer": "1–5 objects",
    "caption": "recall, named and IoU ≥ 0.5",
    "what (one object)": "accuracy",
    "what (2–5 objects)": "all right",
    "count": "accuracy",
    "color": "accuracy",
}


@dataclass(frozen=True)
class Kind:
    """A row of the table: its name, where the weights are, the option to load them with, and how products over bfloat16
    weights are computed.
    """

    name: str
    directory: Path
    quantization: str | None
    precision: str = "bfloat16"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="questions per task and language (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=200, help="scenes for the divergence (default: %(default)s)")
    parser.add_argument("--calibration", type=int, default=200, help="scenes for GPTQ (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="names of the rows to print (default: all)")
    options = parser.parse_args(arguments)
    note(f"PADDLEMIX_OPS={ops.mode()}")
    with tempfile.TemporaryDirectory() as folder:
        kinds = [
            Kind("fp32", DEFAULT_MODEL_DIR, None),
            Kind("bf16, float32 products", DEFAULT_MODEL_DIR, "bf16", "float32"),
            Kind("bf16", DEFAULT_MODEL_DIR, "bf16"),
            Kind("int8", DEFAULT_MODEL_DIR, "int8"),
            Kind("int4, rounded to nearest", DEFAULT_MODEL_DIR, "int4"),
            Kind("nf4", DEFAULT_MODEL_DIR, "nf4"),
            Kind("int4, GPTQ", Path(folder) / "gptq", "int4"),
        ]
        if any(kind.directory != DEFAULT_MODEL_DIR and chosen(kind, options.only) for kind in kinds):
            write_calibrated(Path(folder) / "gptq", options.calibration)
        print("| weights | MB | divergence | same token | " + " | ".join(SCORES) + " |")
        print("|---|" + "--:|" * (3 + len(SCORES)))
        exact: list[np.ndarray] | None = None
        for kind in kinds:
            if exact is not None and not chosen(kind, options.only):
                continue
            loaded = load_model(kind.directory, quantization=kind.quantization)
            if "cpu" in ops.backend.library().devices:
                ops.set_matmul_precision(kind.precision)
            found = list(log_probabilities(loaded, options.scenes))
            exact = exact or found
            if not chosen(kind, options.only):
                continue
            pairs = list(zip(exact, found))
            divergence = np.mean([np.sum(np.exp(e) * (e - f)) for rows in pairs for e, f in zip(*rows)])
            same = np.mean([e.argmax() == f.argmax() for rows in pairs for e, f in zip(*rows)])
            config = loaded.model.config
            plan = plan_for(config.quantization, None, None)
            size = weight_bytes(loaded.model.weight_table, config, "float32", plan)
            cells = [kind.name, f"{size / 1e6:.1f}", f"{1000 * divergence:.2f}", f"{same:.4f}"]
            print(
                "| " + " | ".join(cells + [f"{score:.3f}" for score in scores(loaded, options.count)]) + " |",
                flush=True,
            )


def chosen(kind: Kind, only: Sequence[str] | None) -> bool:
    """Whether a row is to be printed."""
    return not only or kind.name in only


def write_calibrated(directory: Path, count: int) -> None:
    """Calibrate the bundled model on ``count`` scenes and save it."""
    base = load_model(DEFAULT_MODEL)
    samples = model_inputs(
        [(messages, False) for messages, _ in scenes(CALIBRATION_SEED, count)], base.processor, max_length=MAX_LENGTH
    )
    rounded = calibrate(base.model, samples, progress=note)
    save_gptq(DEFAULT_MODEL_DIR, rounded, directory, table=base.model.weight_table)


def note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def scenes(first_seed: int, count: int) -> Iterator[tuple[list[Message], str]]:
    """Questions about drawn scenes with their answers, as messages, and the answer."""
    for seed in range(first_seed, first_seed + count):
        scene = generate_scene(seed, size=168)
        for conversation in make_conversations(scene, np.random.default_rng([seed, 2]), CONVERSATIONS):
            question, answer = conversation.turns[0]
            yield [user_message(question, scene.pil()), {"role": "assistant", "content": answer}], answer


def log_probabilities(loaded: LoadedModel, count: int) -> Iterator[np.ndarray]:
    """For each answer the log probabilities of its tokens and its end, float64 ``[tokens, vocab]``."""
    for messages, _ in scenes(DIVERGENCE_SEED, count):
        (inputs,) = model_inputs([(messages, False)], loaded.processor, max_length=MAX_LENGTH)
        prompt = loaded.processor.render(messages[:1])
        last = inputs["input_ids"].shape[1] - 1  # a line end, which nothing follows
        with paddle.no_grad():
            logits: Any = loaded.model(**inputs, use_cache=False).logits
        wanted = logits[0, len(prompt.input_ids) - 1 : last - 1].numpy().astype(np.float64)
        wanted -= wanted.max(axis=-1, keepdims=True)
        yield wanted - np.log(np.exp(wanted).sum(axis=-1, keepdims=True))


def scores(loaded: LoadedModel, count: int) -> Iterator[float]:
    """The metrics of :data:`SCORES`, both languages together."""
    answer = answer_function(loaded.model, loaded.processor)
    for task in evaluate.TASKS:
        if task.name not in SCORES:
            continue
        points = total = 0.0
        for language in LANGUAGES:
            asked = list(evaluate.questions(task, language, count))
            for start in range(0, len(asked), BATCH):
                part = asked[start : start + BATCH]
                texts = answer([evaluate.prompt(question) for question in part])
                for question, text in zip(part, texts):
                    got, out_of = task.score(question, text).get(SCORES[task.name], (0.0, 0.0))
                    points, total = points + got, total + out_of
        note(f"{task.name}: {points / max(total, 1):.3f}")
        yield points / max(total, 1)


if __name__ == "__main__":
    main()
