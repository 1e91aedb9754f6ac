"""Decode steps with the package of a given checkout, as the peer protocol wants it: a round for each line.

``bench_decode.py`` runs it twice, on this checkout and on an older one. Times are the processor's for one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
PROMPT, NEW_TOKENS, CACHED = 71, 120, 288
NARROW = {"hidden": 16, "heads": 2, "ffn": 16, "vit_width": 16, "vit_heads": 2, "vit_mlp": 32}
WIDE = ("int4", "int8", "bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time decode steps for bench_decode.py: a round for each line read.")
    parser.add_argument("--checkout", type=Path, default=HERE, help="whose paddlemix")
    parser.add_argument("--shrink", type=int, default=1, help="divide the published widths by this")
    options = parser.parse_args()
    sys.path[:0] = [str(options.checkout), str(HERE)]

    import numpy as np
    import paddle

    from benchmarks.random_weights import config_of, random_model
    from benchmarks.shapes import Shapes
    from paddlemix import ops
    from paddlemix.engine.engine import Engine, EngineConfig
    from paddlemix.engine.protocols import RowInput
    from paddlemix.engine.request import Request, SamplingParams
    from paddlemix.engine.sampler import RowSampler
    from paddlemix.inference import load_model
    from paddlemix.models.qwen_vl.runner import QWenVLRunner
    from paddlemix.quantization.plan import plan_for
    from paddlemix.utils.allocator import keep_freed_memory
    from paddlemix.zoo import DEFAULT_MODEL

    keep_freed_memory()
    ops.set_threads(1)
    bundled = load_model(DEFAULT_MODEL, device="cpu").model
    runner = QWenVLRunner(bundled)

    def answer(**sampling: float) -> list[float]:
        """Seconds of each step of an engine behind its prompt."""
        engine = Engine(runner, None, EngineConfig(cache_bytes=1 << 25))
        engine.add(Request("a", tuple(range(5, 5 + PROMPT)), (), SamplingParams(max_tokens=NEW_TOKENS, **sampling)))
        engine.step()
        seconds = []
        while engine.has_work():
            seconds += timed(engine.step, 1)
        return seconds

    def step_of(model: object) -> Callable[[], object]:
        """A pass of one row with ``CACHED`` positions before it."""
        own = QWenVLRunner(model)
        cache = own.new_cache(CACHED // 64 + 1, 64)
        for tensor in [*cache.keys, *cache.values]:
            tensor.set_value(paddle.full_like(tensor, 0.01))
        row = RowInput(np.array([5]), CACHED, list(range(CACHED // 64 + 1)), 1.0)
        return lambda: own.forward([row], cache)

    def wide(form: str) -> Callable[[], object]:
        shapes = Shapes().shrunk(options.shrink)
        return step_of(random_model(config_of(shapes, 1, 1), plan_for(None, form, None)))

    logits = (np.random.default_rng(0).normal(size=151936) * 2.5).astype(np.float32)
    logits[[5, 900, 7000]] = 22, 21, 19  # as in an answer: a few tokens that may come
    sampler = RowSampler(SamplingParams(temperature=1.0, top_p=0.3, seed=1), (), 151851)
    steps = {
        f"narrow {layers}": step_of(random_model(config_of(Shapes(**NARROW), layers, 1), None)) for layers in (4, 32)
    }
    steps |= {f"wide {form}": wide(form) for form in WIDE}
    steps["sampling"] = lambda: sampler.choose(logits)
    print(f"paddlemix of {options.checkout}", flush=True)
    for _ in sys.stdin:
        with paddle.no_grad():
            result = {"bundled greedy": answer(), "bundled sampled": answer(temperature=1.0, top_p=0.3, seed=1)}
            for name, step in steps.items():
                step()
                result[name] = timed(step, 20)
        print(json.dumps(result), flush=True)


def timed(run: Callable[[], object], times: int) -> list[float]:
    seconds = []
    for _ in range(times):
        start = time.thread_time()
        run()
        seconds.append(time.thread_time() - start)
    return seconds


if __name__ == "__main__":
    main()
