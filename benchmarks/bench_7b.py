"""A conversation of two turns with a model of the published size: 9.6 billion random weights, made in memory.

``python benchmarks/bench_7b.py --quantization int4``

The words are nonsense, the work is real: one image of 448 × 448, the published vocabulary, ``ChatSession`` with its
caches. Prints what a user waits for and what it costs: seconds to the first token of both turns, tokens per second, the
share of the memory's bandwidth that decoding reaches (weights, keys and values), and the peak of the memory.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_model import READ_PROBE_BYTES, divisor, positive, read_probe, time_round, use_threads
from benchmarks.process_memory import peak_gigabytes
from benchmarks.shapes import Shapes

QUESTIONS = ("What is in the picture? Describe it and box every object.", "Which of them is the largest?")
LM_LAYERS, VIT_LAYERS = 32, 48
VOCABULARY = 151936
TILE = 16


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Two turns with a model of the published size and random weights, on the CPU.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--quantization", choices=["int4", "int8", "bf16", "nf4"], default="int4")
    parser.add_argument("--vision_quantization", choices=["int8", "bf16"], help="int8 with int4 and int8")
    parser.add_argument("--kv_cache_dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--new-tokens", type=positive, default=48, help="of each answer; at least 2")
    parser.add_argument("--lm-layers", type=positive, default=LM_LAYERS)
    parser.add_argument("--vit-layers", type=positive, default=VIT_LAYERS)
    parser.add_argument("--shrink", type=divisor, default=1, help="divide heads and widths by this; 16: quick trial")
    parser.add_argument("--threads", type=positive, default=os.cpu_count())
    parser.add_argument("--vocabulary", type=Path, default=published_vocabulary(), help="qwen.tiktoken")
    options = parser.parse_args(arguments)
    if options.new_tokens < 2:
        parser.error("argument --new-tokens: got 1, expected at least 2: the first token is prefill, not decoding")
    if options.vocabulary is None:
        parser.error(
            "argument --vocabulary: needed, because the package dashscope, which has it, is not installed; "
            "to install: pip install dashscope"
        )
    return options


def published_vocabulary() -> Path | None:
    """qwen.tiktoken, where the package dashscope brings it."""
    spec = importlib.util.find_spec("dashscope")
    return None if spec is None else Path(spec.origin).parent / "resources" / "qwen.tiktoken"


def bytes_per_step(model, positions: float) -> float:
    """What one step of decoding reads: the weights of the decoder and of the head, and the keys and values."""
    weights = 0
    for part in (*model.transformer.h, model.lm_head):
        weights += sum(tensor.size * tensor.element_size() for tensor in (*part.parameters(), *part.buffers()))
    cached = 2 if model.config.kv_cache_dtype == "bfloat16" else 4
    return weights + 2 * cached * model.config.hidden_size * len(model.transformer.h) * positions


def plain_tile(tokenizer) -> int:
    """The first tile of 16 tokens whose texts, in any order, are read as the same tokens again.

    A real answer's are: in the next turn its text becomes the same ids, which the cache holds already. Random tokens
    would not, and the cache would be of less use than it is.
    """
    import numpy as np

    generator = np.random.default_rng(0)
    for tile in range(200, tokenizer.vocab_size // TILE):
        ids = [int(token) for token in generator.integers(TILE * tile, TILE * (tile + 1), 64)]
        text = tokenizer.decode(ids)
        if text == text.strip() and tokenizer.encode(text) == ids:
            return tile
    raise SystemExit("no tile of the vocabulary survives decoding and encoding")


def speak_only(head, tile: int) -> None:
    """Let the head choose among the 16 tokens of one tile; it reads and multiplies all of its weights as before."""
    factors = head.scales if head.scales is not None else head.qweight
    kept = factors[tile].clone()
    factors[:] = 0
    factors[tile] = kept


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    use_threads(options.threads)
    import numpy as np
    import paddle
    from PIL import Image

    from benchmarks.random_weights import config_of, random_model
    from paddlemix import ops
    from paddlemix.chat import ChatSession
    from paddlemix.models.qwen_vl import QwenVLProcessor, QWenVLTokenizer
    from paddlemix.quantization.plan import plan_for
    from paddlemix.utils.allocator import keep_freed_memory

    paddle.set_device("cpu")
    keep_freed_memory()
    start = time.perf_counter()
    plan = plan_for(None, options.quantization, options.vision_quantization)
    config = config_of(Shapes().shrunk(options.shrink), options.lm_layers, options.vit_layers, VOCABULARY)
    config.kv_cache_dtype = options.kv_cache_dtype
    model = random_model(config, plan)
    print(
        f"Paddle {paddle.__version__}, operators: {ops.mode()}, {options.threads} thread(s); {plan}; keys and values "
        f"{options.kv_cache_dtype}; {options.lm_layers} decoder and {options.vit_layers} ViT layers, made in "
        f"{time.perf_counter() - start:.0f} s."
    )
    tokenizer = QWenVLTokenizer(options.vocabulary)
    speak_only(model.lm_head, plain_tile(tokenizer))
    session = ChatSession(model, QwenVLProcessor(tokenizer))
    noise = np.random.default_rng(0).integers(0, 256, (448, 448, 3), dtype=np.uint8)
    loading = peak_gigabytes()
    probe = read_probe(options.threads)
    reads, lines, first_tokens = time_round(probe), [], []
    for turn, question in enumerate(QUESTIONS):
        images = [Image.fromarray(noise)] if turn == 0 else []
        # Nothing is a stop token: random weights must not end the answer early.
        reply = session.ask(
            question, images, max_new_tokens=options.new_tokens, do_sample=False, eos_token_id=-1, stop_strings=[]
        )
        reads += time_round(probe)
        times, steps = reply.timings, reply.new_tokens - 1
        first = times["total"] - times["decode"]
        first_tokens.append(first)
        step = times["decode"] / steps
        positions = reply.prompt_tokens + reply.new_tokens / 2
        bandwidth = bytes_per_step(model, positions) / step / 1e9
        lines.append(
            [turn + 1, reply.prompt_tokens, reply.reused_tokens, f"{times.get('encode', 0):.2f}",
             f"{times['prefill']:.2f}", f"{first:.2f}", f"{1 / step:.2f}", f"{bandwidth:.1f}"]
        )  # fmt: skip
    read = READ_PROBE_BYTES / min(reads) / 1e9
    peak = max(loading, peak_gigabytes() - READ_PROBE_BYTES / 1e9)
    print(f"Plain memory reads: {read:.1f} GB/s. Peak memory without their buffer: {peak:.2f} GB.")
    print(f"Second turn's first token after {first_tokens[1] / first_tokens[0]:.1%} of the first turn's.")
    print()
    names = ("turn", "prompt", "reused", "encode s", "prefill s", "first token s", "tokens/s", "GB/s", "of plain reads")
    print("| " + " | ".join(names) + " |\n" + "| --: " * len(names) + "|")
    for line in lines:
        print("| " + " | ".join(map(str, [*line, f"{float(line[-1]) / read:.0%}"])) + " |")


if __name__ == "__main__":
    main()
