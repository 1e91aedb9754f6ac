"""What bench_train.py measures, each in a process of its own.

The first argument is the name of a function, the second its arguments as JSON; what it returns is printed as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import paddle
import paddle.nn.functional as F

from benchmarks.process_memory import peak_gigabytes, reset_peak
from benchmarks.random_weights import config_of, random_model
from benchmarks.shapes import Shapes
from paddlemix import ops
from paddlemix.adapters import LoRAConfig, inject
from paddlemix.data.batching import BatchLayout, TrainingPlan
from paddlemix.data.collation import collate_ids
from paddlemix.data.encoding import Example
from paddlemix.data.problems import RecordLocation
from paddlemix.finetune.linear_cross_entropy import linear_cross_entropy
from paddlemix.finetune.model import FinetuneModel
from paddlemix.finetune.parallel_state import ParallelState
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.quantization.plan import plan_for
from paddlemix.utils.allocator import keep_freed_memory
from paddlemix.utils.denormals import flush_denormals
from paddlemix.zoo import DEFAULT_MODEL_DIR

# ---------------------------------------------------------------------- the step of the loss


def loss_step(positions: int, hidden: int, vocabulary: int, trained_head: bool) -> dict[str, Callable[[], None]]:
    """The loss and its gradients, by variant: all logits at once in plain Paddle, and in chunks."""
    states, weight = paddle.randn([positions, hidden]), paddle.randn([hidden, vocabulary]) * 0.02
    labels = paddle.randint(0, vocabulary, [positions])
    states.stop_gradient, weight.stop_gradient = False, not trained_head

    def run(loss_of: Callable[[], paddle.Tensor]) -> None:
        loss_of().backward()
        states.clear_gradient(set_to_zero=False)
        if trained_head:
            weight.clear_gradient(set_to_zero=False)

    return {
        "plain": lambda: run(lambda: F.cross_entropy(paddle.matmul(states, weight), labels, reduction="sum")),
        "chunked": lambda: run(lambda: linear_cross_entropy(states, weight, labels)),
    }


def loss_memory(variant: str, positions: int, hidden: int, vocabulary: int, trained_head: bool) -> dict[str, float]:
    """Gigabytes that a step needs beyond its inputs; those of the head's own gradient are left out too."""
    step = loss_step(positions, hidden, vocabulary, trained_head)[variant]
    reset_peak()
    before = peak_gigabytes()
    step()
    own = 4 * hidden * vocabulary / 1e9 if trained_head else 0.0
    return {"gigabytes": peak_gigabytes() - before - own}


def loss_times(
    repeats: int, positions: int, hidden: int, vocabulary: int, trained_head: bool
) -> dict[str, list[float]]:
    """Seconds of a step, by variant, which take turns."""
    return take_turns(loss_step(positions, hidden, vocabulary, trained_head), repeats)


def take_turns(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each step, by name, in rounds; the first of each, which warms up, does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


# ---------------------------------------------------------------------- the step of a training


class Step(NamedTuple):
    """How a step is computed: ``ops``: "reference" is plain Paddle; ``chunked``: never all logits."""

    ops: str
    chunked: bool
    recompute: bool


STEPS = {
    "plain Paddle": Step("reference", False, False),
    "all logits": Step("auto", False, False),
    "all logits, recompute": Step("auto", False, True),
    "chunked loss": Step("auto", True, False),
    "chunked loss, recompute": Step("auto", True, True),
}


class Workload(NamedTuple):
    """A model prepared for a mode, its optimizer and a batch."""

    model: QWenLMHeadModel
    optimizer: paddle.optimizer.Optimizer
    batch: dict[str, paddle.Tensor]

    def run(self, step: Step) -> float:
        """One step of the optimizer; the loss before it."""
        training_model = FinetuneModel(self.model, recompute=step.recompute)
        training_model.train()
        with ops.using(step.ops):
            loss = training_model(**self.batch)["loss"] if step.chunked else self.model(**self.batch).loss
            loss.backward()
            self.optimizer.step()
            self.optimizer.clear_grad(set_to_zero=False)
        return float(loss)


def workload(
    size: str, mode: str, rows: int, length: int, shrink: int, lm_layers: int, vit_layers: int, vocabulary: int
) -> Workload:
    """``size``: "bundled", the model that comes along, or "published", random weights of the published widths.
    ``mode``: "full" (all but the ViT), "lora" or "qlora" (int4), with the published adapter."""
    plan = plan_for(None, "int4", None) if mode == "qlora" else None
    if size == "bundled":
        model = QWenLMHeadModel.from_pretrained(DEFAULT_MODEL_DIR, quantization="int4" if plan else None)
    else:
        model = random_model(config_of(Shapes().shrunk(shrink), lm_layers, vit_layers, vocabulary), plan)
    if mode == "full":
        model.freeze_vit()
    else:
        inject(model, LoRAConfig())
    trained = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    optimizer = paddle.optimizer.AdamW(1e-5, beta2=0.95, weight_decay=0.1, parameters=trained)
    return Workload(model, optimizer, conversation(model, rows, length))


def conversation(model: QWenLMHeadModel, rows: int, length: int) -> dict[str, paddle.Tensor]:
    """Rows that begin with an image; the text behind it is learned."""
    visual, generator = model.config.visual, np.random.default_rng(0)
    ids = generator.integers(0, 256, (rows, length))
    ids[:, : visual.n_queries + 2] = [visual.image_start_id, *[0] * visual.n_queries, visual.image_start_id + 1]
    labels = np.where(np.arange(length) < visual.n_queries + 2, -100, ids)
    side = visual.image_size
    images = generator.standard_normal((rows, 3, side, side), dtype=np.float32)
    arrays = {"input_ids": ids, "labels": labels, "images": images}
    return {name: paddle.to_tensor(array) for name, array in arrays.items()}


def step_memory(variant: str, **setting: Any) -> dict[str, float]:
    """Gigabytes of the process, at most, in two steps."""
    work = workload(**setting)
    reset_peak()
    for _ in range(2):
        work.run(STEPS[variant])
    return {"gigabytes": peak_gigabytes()}


def step_times(repeats: int, **setting: Any) -> dict[str, list[float]]:
    """Seconds of a step, by variant, which take turns."""
    work = workload(**setting)
    return take_turns({name: lambda step=step: work.run(step) for name, step in STEPS.items()}, repeats)


def whole_model_step(length: int, shrink: int, lm_layers: int, vit_layers: int, vocabulary: int) -> dict[str, float]:
    """One step of Q-LoRA with a model of the published size: seconds, and gigabytes since the process began."""
    work = workload("published", "qlora", 1, length, shrink, lm_layers, vit_layers, vocabulary)
    made = peak_gigabytes()
    start = time.perf_counter()
    loss = work.run(STEPS["chunked loss, recompute"])
    return {"seconds": time.perf_counter() - start, "made": made, "gigabytes": peak_gigabytes(), "loss": loss}


# ---------------------------------------------------------------------- packing


def drawn_lengths(generator: np.random.Generator, lengths: str, shortest: int, longest: int, count: int) -> np.ndarray:
    """Lengths of conversations, int64 ``[count]``: "even", or "mostly short": log-normal, half of them below thrice the
    shortest."""
    if lengths == "even":
        return generator.integers(shortest, longest + 1, count)
    return (3 * shortest * np.exp(generator.standard_normal(count) * 0.8)).clip(shortest, longest).astype(np.int64)


def packing_times(repeats: int, records: int, budget: int, lengths: str, shortest: int, longest: int) -> dict[str, Any]:
    """Seconds for an epoch of short conversations with the bundled model, in packed rows and in padded ones.

    A step is the trainer's: a forward and backward pass, the gradient's norm, AdamW over all weights.
    Both have at most ``budget`` positions in a forward pass: one packed row of so many, or as many rows as the longest
    conversation allows, grouped by length and padded to the longest of them.
    """
    model = QWenLMHeadModel.from_pretrained(DEFAULT_MODEL_DIR)
    training_model, generator = FinetuneModel(model), np.random.default_rng(0)
    training_model.train()
    state = ParallelState(training_model)
    optimizer = paddle.optimizer.AdamW(1e-5, beta2=0.95, weight_decay=0.1, parameters=list(state.trainable.values()))
    sizes = drawn_lengths(generator, lengths, shortest, longest, records)
    location = RecordLocation(Path("records"), 1)
    examples = [Example(ids, ids.copy(), (), location) for ids in (generator.integers(0, 256, size) for size in sizes)]
    layouts = {
        "packed": BatchLayout(1, 1, 1, budget, packing=True),
        "grouped by length": BatchLayout(budget // longest, 1, 1, longest, group_by_length=True),
    }
    plans = {name: TrainingPlan(sizes, sizes - 1, layout, seed=0) for name, layout in layouts.items()}

    def run_epoch(plan: TrainingPlan) -> None:
        for batch in plan.micro_batches(0, 0, plan.steps(0)):
            arrays = collate_ids([[examples[index] for index in row] for row in batch.rows], pad_id=0)
            training_model(**{name: paddle.to_tensor(array) for name, array in arrays.items()})["loss"].backward()
            state.fill_gradients()
            norm = state.gradient_norm(optimizer)
            if norm > 1:
                state.scale_gradients(optimizer, 1 / norm)
            optimizer.step()
            optimizer.clear_grad(set_to_zero=False)

    steps = {name: lambda plan=plan: run_epoch(plan) for name, plan in plans.items()}
    passes = {name: plan.steps(0) for name, plan in plans.items()}
    return {"seconds": take_turns(steps, repeats), "passes": passes}


MEASUREMENTS = {
    function.__name__: function
    for function in (loss_memory, loss_times, step_memory, step_times, packing_times, whole_model_step)
}


def main() -> None:
    paddle.set_device("cpu")
    keep_freed_memory()  # both as finetune.py does
    flush_denormals()
    paddle.seed(0)
    name, arguments = sys.argv[1:]
    print(json.dumps(MEASUREMENTS[name](**json.loads(arguments))))


if __name__ == "__main__":
    main()
