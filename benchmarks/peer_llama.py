"""llama.cpp, timed for bench_cpu.py: decoder layers of the published widths with random weights, in several formats.

Needs an environment with ``llama-cpp-python`` and ``gguf``, and none of this project's packages. A Llama layer has the
same products as Qwen's, less the bias of the packed projection.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Callable

import gguf
import llama_cpp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.shapes import CACHED, PROMPT, Shapes

# The head is no part of a layer; a small one hardly counts.
VOCABULARY = 256
BLOCK = 32  # inputs that share a scale in Q4_0 and Q8_0
FILE_TYPES = {
    "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
}


def random_weight(generator: np.random.Generator, outputs: int, inputs: int, format_name: str) -> np.ndarray:
    """Random weights in the format's own bytes; a block of the low-bit ones begins with its half-precision scale."""
    if format_name == "F16":
        return (generator.standard_normal((outputs, inputs), dtype=np.float32) * 0.02).astype(np.float16)
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[format_name]]
    blocks = generator.integers(0, 256, (outputs, inputs // block, size), dtype=np.uint8)
    scale = 0.02 / (2 if format_name == "Q4_0" else 40)
    blocks[:, :, :2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    return blocks.reshape(outputs, -1)


def write_model(path: Path, format_name: str, layers: int, shapes: Shapes) -> None:
    generator = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(2 * (CACHED + PROMPT))
    writer.add_embedding_length(shapes.hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(shapes.ffn)
    writer.add_head_count(shapes.heads)
    writer.add_head_count_kv(shapes.heads)
    writer.add_rope_dimension_count(shapes.hidden // shapes.heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("none")
    writer.add_file_type(FILE_TYPES[format_name])
    table = generator.standard_normal((VOCABULARY, shapes.hidden), dtype=np.float32) * 0.02
    writer.add_tensor("token_embd.weight", table)
    writer.add_tensor("output.weight", table)
    writer.add_tensor("output_norm.weight", np.ones(shapes.hidden, np.float32))
    raw = None if format_name == "F16" else gguf.GGMLQuantizationType[format_name]
    products = {
        "attn_q": (shapes.hidden, shapes.hidden),
        "attn_k": (shapes.hidden, shapes.hidden),
        "attn_v": (shapes.hidden, shapes.hidden),
        "attn_output": (shapes.hidden, shapes.hidden),
        "ffn_gate": (shapes.ffn, shapes.hidden),
        "ffn_up": (shapes.ffn, shapes.hidden),
        "ffn_down": (shapes.hidden, shapes.ffn),
    }
    for layer in range(layers):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(shapes.hidden, np.float32))
        for name, (outputs, inputs) in products.items():
            weight = random_weight(generator, outputs, inputs, format_name)
            writer.add_tensor(f"blk.{layer}.{name}.weight", weight, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Model:
    """A model and its cache; ``feed`` evaluates tokens at the given position and waits for the last one's logits."""

    def __init__(self, path: Path, threads: int) -> None:
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load the model that was made, {path.name}")
        context = llama_cpp.llama_context_default_params()
        context.n_ctx = 2 * (CACHED + PROMPT)
        context.n_batch = context.n_ubatch = 512
        context.n_threads = context.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, context)
        if not self.context:
            raise SystemExit(f"llama.cpp makes no context for {path.name}")

    def feed(self, count: int, position: int) -> None:
        memory = llama_cpp.llama_get_memory(self.context)
        llama_cpp.llama_memory_seq_rm(memory, 0, position, -1)
        batch = llama_cpp.llama_batch_init(count, 0, 1)
        batch.n_tokens = count
        for i in range(count):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = i % VOCABULARY, position + i, 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i == count - 1
        status = llama_cpp.llama_decode(self.context, batch)
        llama_cpp.llama_batch_free(batch)
        if status:
            raise SystemExit(f"llama_decode failed with status {status}")
        llama_cpp.llama_get_logits(self.context)[0]


def seconds(run: Callable[[], None], layers: int, times: int) -> list[float]:
    result = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        result.append((time.perf_counter() - start) / layers)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Time llama.cpp's layers for bench_cpu.py: a round for each line read."
    )
    for name in ("--lm-layers", "--vit-layers", "--threads", "--shrink"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--formats", nargs="+", choices=FILE_TYPES, default=list(FILE_TYPES))
    options = parser.parse_args()
    shapes = Shapes().shrunk(options.shrink)
    shapes = replace(shapes, ffn=shapes.ffn // BLOCK * BLOCK)  # a multiple already at the published width
    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, None)
    llama_cpp.llama_backend_init()
    models = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.formats:
            path = Path(folder) / f"{name}.gguf"
            write_model(path, name, options.lm_layers, shapes)
            models[name] = Model(path, options.threads)
            models[name].feed(PROMPT, 0)
            models[name].feed(1, CACHED)
        features = llama_cpp.llama_print_system_info().decode()
        used = [part.split(" = ")[0].strip() for part in features.removeprefix("CPU : ").split("|") if "= 1" in part]
        print(f"llama-cpp-python {llama_cpp.__version__} ({' '.join(used)}), {options.threads} threads", flush=True)
        for _ in sys.stdin:
            times = {}
            for name, model in models.items():
                times[f"prefill/{name}"] = seconds(lambda: model.feed(PROMPT, 0), options.lm_layers, 1)  # noqa: B023
                times[f"decode/{name}"] = seconds(lambda: model.feed(1, CACHED), options.lm_layers, 8)  # noqa: B023
            print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
