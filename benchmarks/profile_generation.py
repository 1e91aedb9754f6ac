"""Speed and memory of generation behind one image, as Qwen-VL's README measures them.

``python benchmarks/profile_generation.py --formats int4``                              on the CPU, random weights
``python benchmarks/profile_generation.py --model DIR --device gpu --formats bf16 int4`` a real checkpoint on a GPU

The context is one image (258 tokens); it is continued to 2048 and to 8192 tokens. Prints the average speed of each
and the peak of the memory. On a GPU every token is generated. On a CPU that would take most of an hour, so single steps
are timed at cache lengths spread evenly over the range, and averaged; ``--every-step`` generates all of them there too.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_model import divisor, positive, use_threads
from benchmarks.process_memory import peak_gigabytes, reset_peak
from benchmarks.shapes import Shapes

CONTEXT = 258
LENGTHS = (2048, 8192)
SAMPLES, REPEATS = 5, 4


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Speed and memory of generating behind one image.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", help="name or directory; without it, random weights of the published size")
    parser.add_argument("--device", default="cpu", help="cpu, gpu or gpu:N")
    parser.add_argument("--formats", nargs="+", choices=["bf16", "int8", "int4"], default=["bf16", "int8", "int4"])
    parser.add_argument("--lengths", nargs="+", type=positive, default=list(LENGTHS), help="tokens in all, context too")
    parser.add_argument("--kv_cache_dtype", choices=["bfloat16", "float32"], default="bfloat16", help="on a CPU")
    parser.add_argument("--every-step", action="store_true", help="generate every token on a CPU as well")
    parser.add_argument("--lm-layers", type=positive, default=32, help="of the random model")
    parser.add_argument("--vit-layers", type=positive, default=48, help="of the random model")
    parser.add_argument("--shrink", type=divisor, default=1, help="divide the random model's widths by this")
    parser.add_argument("--threads", type=positive, default=os.cpu_count())
    options = parser.parse_args(arguments)
    if min(options.lengths) <= CONTEXT:
        parser.error(f"argument --lengths: expected more than the context of {CONTEXT} tokens")
    return options


def load(options: argparse.Namespace, format_name: str):
    """The model in this format; on a GPU ``bf16`` is the plain 16-bit model."""
    import paddle

    on_cpu = options.device == "cpu"
    quantization = format_name if on_cpu or format_name != "bf16" else None
    if options.model:
        from paddlemix.inference import load_model

        dtype = options.kv_cache_dtype if on_cpu else None
        return load_model(options.model, None, options.device, quantization=quantization, kv_cache_dtype=dtype).model
    from benchmarks.random_weights import config_of, random_model
    from paddlemix.quantization.plan import plan_for

    paddle.set_default_dtype("float32" if on_cpu else "bfloat16")
    shapes = Shapes().shrunk(options.shrink)
    config = config_of(shapes, options.lm_layers, options.vit_layers, 151936 if options.shrink == 1 else 64)
    config.kv_cache_dtype = options.kv_cache_dtype if on_cpu else None
    return random_model(config, None if quantization is None else plan_for(None, quantization, None))


def prompt_of(model):
    """Ids of one image and nothing else ``[1, 258]``, and its pixels."""
    import paddle

    visual = model.config.visual
    ids = [visual.image_start_id, *[visual.image_pad_id] * visual.n_queries, visual.image_start_id + 1]
    return paddle.to_tensor([ids]), paddle.randn([1, 3, visual.image_size, visual.image_size])


def seconds_per_token(model, length: int, every_step: bool) -> float:
    """Average over the tokens that continue the context to ``length``."""
    import paddle

    ids, images = prompt_of(model)
    cache = model.new_cache(1, ids.shape[1], length)
    token = paddle.to_tensor([[0]])

    def step() -> None:
        token.set_value(model(token, past_key_values=cache).logits[:, -1:].argmax(axis=-1))
        token.numpy()

    with paddle.no_grad():
        model(ids, images=images, past_key_values=cache, logits_to_keep=1)
        if every_step:
            start = time.perf_counter()
            for _ in range(ids.shape[1], length):
                step()
            return (time.perf_counter() - start) / (length - ids.shape[1])
        total = 0.0
        for sample in range(SAMPLES):
            position = ids.shape[1] + (length - 1 - ids.shape[1]) * sample // (SAMPLES - 1)
            best = float("inf")
            for _ in range(REPEATS):
                cache.length = position
                start = time.perf_counter()
                step()
                best = min(best, time.perf_counter() - start)
            # The trapezoidal rule: the ends count half.
            total += best * (0.5 if sample in (0, SAMPLES - 1) else 1.0)
        return total / (SAMPLES - 1)


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    use_threads(options.threads)
    import paddle

    from paddlemix import ops
    from paddlemix.utils.allocator import keep_freed_memory

    paddle.set_device(options.device)
    on_cpu = paddle.get_device() == "cpu"
    if on_cpu:
        keep_freed_memory()
    every_step = options.every_step or not on_cpu
    how = "every token generated" if every_step else f"best of {REPEATS} steps at {SAMPLES} lengths, averaged"
    print(f"Paddle {paddle.__version__} on {paddle.get_device()}, operators: {ops.mode()}; {how}.\n")
    print("| format | tokens in all | tokens/s | peak memory, GB |\n| --- | --: | --: | --: |")
    for format_name in options.formats:
        model = load(options, format_name)
        for length in options.lengths:
            if on_cpu:
                reset_peak()
            else:
                paddle.device.cuda.reset_max_memory_allocated()
            seconds = seconds_per_token(model, length, every_step)
            peak = peak_gigabytes() if on_cpu else paddle.device.cuda.max_memory_allocated() / 1e9
            print(f"| {format_name} | {length} | {1 / seconds:.2f} | {peak:.2f} |", flush=True)
        del model


if __name__ == "__main__":
    main()
