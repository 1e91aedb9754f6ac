"""The engine without a server: tokens per second for several rows, prompt lookup, a second turn's first token.

    python benchmarks/bench_engine.py [--lm-layers 4] [--rounds 6]

What is compared takes turns in every round; medians are printed, and ratios of them. Seconds are the processor's, on
one thread. Widths are the published ones with int4 weights, which are random; what depends on what the model says is
measured with the bundled model.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_model import positive, use_threads

clock = time.process_time
"""Of one thread: what else runs on the machine counts only by the caches and the memory that it uses."""
ROWS = (1, 4, 8)
PROMPT_TOKENS, NEW_TOKENS = 100, 24
VOCABULARY = 151936


def request(name: str, ids: Sequence[int], images: tuple = (), **sampling: object):
    """A greedy request."""
    from paddlemix.engine.request import Request, SamplingParams

    return Request(name, tuple(ids), images, SamplingParams(**sampling))


def answer(engine, asked) -> tuple[list[int], float, float]:
    """The ids of an answer, and the seconds to the first and to the last of them."""
    engine.add(asked)
    ids: list[int] = []
    start, first = clock(), 0.0
    while engine.has_work():
        for output in engine.step():
            if output.error is not None:
                raise output.error
            ids += output.token_ids
            first = first or (clock() - start if ids else 0.0)
    return ids, first, clock() - start


def rows_at_once(engine, count: int, turn: int) -> float:
    """Tokens per second of so many rows, all of which have their prompts behind them."""
    for row in range(count):
        ids = [(turn * 7919 + row * 104729 + i * 31) % 150000 for i in range(PROMPT_TOKENS)]
        engine.add(request(f"{turn} {row}", ids, max_tokens=NEW_TOKENS + 2 * count))
    while engine.stats().running < count:
        engine.step()
    before, start = engine.stats().generation_tokens, clock()
    for _ in range(NEW_TOKENS - 1):
        engine.step()
    rate = (engine.stats().generation_tokens - before) / (clock() - start)
    for row in range(count):
        engine.abort(f"{turn} {row}")
    return rate


def published_widths(layers: int, rounds: int) -> None:
    """Print how many tokens several rows get beside one."""
    from benchmarks.random_weights import config_of, random_model
    from benchmarks.shapes import Shapes
    from paddlemix.engine.engine import Engine, EngineConfig
    from paddlemix.models.qwen_vl.processing import QwenVLProcessor
    from paddlemix.models.qwen_vl.runner import QWenVLRunner
    from paddlemix.quantization.plan import plan_for
    from paddlemix.zoo import DEFAULT_MODEL_DIR

    config = config_of(Shapes(), layers, 1, VOCABULARY)
    config.kv_cache_dtype = "bfloat16"
    model = random_model(config, plan_for(None, "int4", None))
    tokenizer = QwenVLProcessor.from_directory(DEFAULT_MODEL_DIR).tokenizer  # its texts are read by nobody
    engine = Engine(QWenVLRunner(model, 1000), tokenizer, EngineConfig(cache_bytes=256 << 20))
    rates: dict[int, list[float]] = {count: [] for count in ROWS}
    for turn in range(rounds + 1):
        for count in ROWS:
            rate = rows_at_once(engine, count, 10 * turn + count)
            if turn:  # the first one warms up
                rates[count].append(rate)
    medians = {count: statistics.median(values) for count, values in rates.items()}
    print(f"| rows, {layers} layers and the head, int4 | tokens/s | over one row |\n| --: | --: | --: |")
    for count, rate in medians.items():
        print(f"| {count} | {rate:.1f} | {rate / medians[1]:.2f} |")


def bundled_cases(session) -> dict[str, tuple[list[int], tuple]]:
    """Prompts that repeat themselves more or less: ids and images."""
    from PIL import Image

    from paddlemix.engine.request import ImageInput
    from paddlemix.zoo import DEMO_IMAGE

    processor = session.processor
    image = Image.open(DEMO_IMAGE)
    part = {"type": "image", "image": image}

    def rendered(*turns: str) -> tuple[list[int], tuple]:
        messages = []
        for index, text in enumerate(turns):
            role = ("user", "assistant")[index % 2]
            content = [{"type": "text", "text": text}]
            messages.append({"role": role, "content": [part, *content] if index == 0 else content})
        ids = processor.render(messages, trusted_tags=True).input_ids
        start = ids.index(processor.tokenizer.img_start_id) + 1
        pixels = processor.image_processor(processor.image_processor.resize(image))[0]
        return ids, (ImageInput(start, b"demo", pixels),)

    caption = "Generate the caption in English with grounding:"
    ids, images = rendered(caption)
    said, _, _ = answer(session.engine, request("first", ids, images, **session.greedy))
    text = (
        processor.tokenizer.decode(said, skip_special_tokens=False)
        .replace("<|im_end|>", "")
        .replace("<|endoftext|>", "")
    )
    return {
        "caption with boxes": (ids, images),
        "second turn, the same asked again": rendered(caption, text, caption),
        "second turn, another question": rendered(caption, text, "Where is the dog?"),
        "a text that quotes the prompt": rendered(f"{caption} {text}\n{caption}"),
    }


class Bundled:
    """The bundled model in an engine that counts its passes."""

    def __init__(self) -> None:
        from paddlemix.engine.engine import Engine, EngineConfig
        from paddlemix.inference import load_model
        from paddlemix.models.qwen_vl.runner import model_runner
        from paddlemix.options import ModelOptions
        from paddlemix.zoo import DEFAULT_MODEL_DIR

        loaded = load_model(ModelOptions(model=DEFAULT_MODEL_DIR))
        self.processor = loaded.processor
        tokenizer = self.processor.tokenizer
        runner = model_runner(loaded.model, tokenizer.vocab_size, "")
        self.engine = Engine(runner, tokenizer, EngineConfig(cache_bytes=64 << 20))
        self.greedy = {"max_tokens": 200, "stop_token_ids": (tokenizer.im_end_id, tokenizer.eod_id)}
        self.passes = 0
        forward = runner.forward

        def counted(rows, cache):
            self.passes += 1
            return forward(rows, cache)

        runner.forward = counted


def prompt_lookup(rounds: int) -> None:
    """Print what proposals save, and when a second turn's first token comes."""
    session = Bundled()
    cases = bundled_cases(session)
    print("\n| bundled model, greedy | tokens | passes with 7 proposals | tokens/s without | with | ratio |")
    print("| --- | --: | --: | --: | --: | --: |")
    for name, (ids, images) in cases.items():
        times: dict[int, list[float]] = {0: [], 7: []}
        for turn in range(rounds + 1):
            for count, values in times.items():
                before = session.passes
                asked = request("x", ids, images, prompt_lookup_num_tokens=count, **session.greedy)
                said, first, seconds = answer(session.engine, asked)
                if turn:
                    values.append((len(said) - 1) / max(seconds - first, 1e-9))
            passes = session.passes - before - 1
        without, proposed = (statistics.median(values) for values in times.values())
        print(
            f"| {name} | {len(said)} | {passes} | {without:.0f} | {proposed:.0f} | {proposed / without:.2f} |",
            flush=True,
        )
    second_turn(session, cases, rounds)


def second_turn(session: Bundled, cases: dict[str, tuple[list[int], tuple]], rounds: int) -> None:
    """Print the first tokens of a first and of a second turn."""
    from dataclasses import replace

    first_times, second_times = [], []
    for turn in range(rounds):
        salt = str(turn).encode()
        for name, times in (("caption with boxes", first_times), ("second turn, another question", second_times)):
            ids, images = cases[name]
            images = tuple(replace(image, key=b"image " + salt) for image in images)
            asked = replace(request("x", ids, images, **session.greedy), salt=salt)
            times.append(answer(session.engine, asked)[1])
    first, second = statistics.median(first_times), statistics.median(second_times)
    told = f"{1000 * first:.1f} ms in the first turn, {1000 * second:.1f} ms in the second"
    print(f"\nFirst token: {told} ({second / first:.0%}).")


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lm-layers", type=positive, default=4)
    parser.add_argument("--rounds", type=positive, default=6)
    options = parser.parse_args(arguments)
    use_threads(1)
    import paddle

    measures: list[Callable[[], None]] = [
        lambda: published_widths(options.lm_layers, options.rounds),
        lambda: prompt_lookup(options.rounds),
    ]
    with paddle.no_grad():
        for measure in measures:
            measure()


if __name__ == "__main__":
    main()
