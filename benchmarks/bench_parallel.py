"""One model in several processes: memory of each, tokens per second, and the bytes that they exchange.

``python benchmarks/bench_parallel.py``                 the bundled model in 1, 2 and 3 processes
``python benchmarks/bench_parallel.py --published``     loading a model of the published size in 1 and 2 processes
``python benchmarks/bench_parallel.py --paper``         what connections would make of it on GPUs, computed

Prints Markdown tables. The bytes are counted where the processes hand them to each other, and stand beside those of a
formula. On a CPU whose cores the processes share, several are for memory, not for speed. The published model's
checkpoint is a sparse file of zeros, which takes no room on the disk; ``--layers`` gives it a part of its layers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PROMPT, TOKENS = 64, 32
WORKER = "worker"


def main() -> None:
    if sys.argv[1:2] == [WORKER]:
        name, *arguments = sys.argv[2:]
        print(json.dumps({"decode": decode, "load": load, "train": train}[name](*arguments)), flush=True)
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--published", action="store_true", help="load a model of the published size")
    parser.add_argument("--layers", type=float, default=1.0, help="with --published, the share of its layers")
    parser.add_argument("--format", default="int4", choices=["int4", "int8", "bf16"], help="with --published")
    parser.add_argument("--processes", type=int, nargs="+", help="how many")
    parser.add_argument("--paper", action="store_true", help="compute, and measure nothing")
    options = parser.parse_args()
    if options.paper:
        print("\n".join(paper()))
        return
    lines = published(options) if options.published else bundled(options.processes or [1, 2, 3])
    for line in lines:
        print(line, flush=True)


def bundled(counts: list[int]) -> Iterator[str]:
    """Decoding and a training step with the bundled model."""
    yield "| processes | parameters of one | tokens/s | bytes a token | by the formula |"
    yield "|--:|--:|--:|--:|--:|"
    for count in counts:
        found = run(count, "decode")
        parameters = " / ".join(f"{own['parameters'] / 1e6:.2f} M" for own in found)
        first = found[0]
        speed = TOKENS / max(own["seconds"] for own in found)
        yield f"| {count} | {parameters} | {speed:.0f} | {first['bytes']:.0f} | {first['formula']:.0f} |"
    yield ""
    yield f"| processes | bytes of a training step, {PROMPT} positions | by the formula |"
    yield "|--:|--:|--:|"
    for count in counts[1:]:
        first = run(count, "train")[0]
        yield f"| {count} | {first['bytes']} | {first['formula']} |"


def published(options: argparse.Namespace) -> Iterator[str]:
    """Loading at the published size."""
    with tempfile.TemporaryDirectory() as folder:
        write_sparse(Path(folder), options.layers)
        yield "| processes | peak of one, GB | of one process | weights of one, GB | seconds |"
        yield "|--:|--:|--:|--:|--:|"
        whole = 0.0
        for count in options.processes or [1, 2]:
            found = run(count, "load", folder, options.format)
            peak = max(own["peak"] for own in found)
            whole = whole or peak
            weights = max(own["weights"] for own in found)
            seconds = max(own["seconds"] for own in found)
            yield f"| {count} | {peak / 1e9:.2f} | {peak / whole:.3f} | {weights / 1e9:.2f} | {seconds:.0f} |"


#: a GPU of 80 GB with 2 TB/s, and 200 TFLOPS in bfloat16 products of a prefill
_READS, _PRODUCTS = 2.0e12, 2.0e14
#: connection -> seconds until a small sum is there, bytes a second that a process sends
CONNECTIONS = {"NVLink": (10e-6, 250e9), "PCIe 4.0": (25e-6, 20e9), "Ethernet, 100 Gbit/s": (100e-6, 10e9)}


def paper() -> Iterator[str]:
    """Milliseconds of a decoded token and of a prefill of 288 positions at the published size in bfloat16.

    A pass reads its share of the weights (or multiplies by them) and waits for 65 sums, each by a ring, in which a
    process sends ``2 (n - 1) / n`` of the bytes.
    """
    from paddlemix.models.qwen_vl.configuration import QWenVLConfig
    from paddlemix.models.qwen_vl.weights import WEIGHTS

    config = QWenVLConfig()
    shapes = WEIGHTS.expected_shapes(config).items()
    weights = sum(int(np.prod(shape)) for name, shape in shapes if name.startswith(("transformer.h.", "lm_head")))
    sums, width = 2 * config.num_hidden_layers + 1, 2 * config.hidden_size
    yield "| connection | GPUs | a token, ms | of one GPU | a prefill, ms | of one GPU |"
    yield "|---|--:|--:|--:|--:|--:|"
    alone = 2 * weights / _READS, 2 * weights * 288 / _PRODUCTS
    for connection, (latency, rate) in CONNECTIONS.items():
        for count in (2, 4, 8):
            times = []
            for work, positions in zip(alone, (1, 288)):
                sent = 2 * (count - 1) / count * positions * width
                times.append(work / count + sums * (latency + sent / rate))
            shares = [f"{1000 * own:.1f} | {own / whole:.2f}" for own, whole in zip(times, alone)]
            yield f"| {connection} | {count} | {' | '.join(shares)} |"


def run(count: int, *work: str) -> list[dict[str, Any]]:
    """What each of so many processes measures."""
    from paddlemix.parallel.launch import free_ports, process_environment

    ports = free_ports(count)
    command = [sys.executable, __file__, WORKER, *work]
    processes = []
    for rank in range(count):
        own = process_environment(rank, count, ports, on_gpu=False) if count > 1 else {}
        environment = {**os.environ, "GLOG_minloglevel": "2", **own}
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0] for process in processes]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def decode() -> dict[str, Any]:
    """Greedy decoding of one row behind a prompt, in step with the other processes."""
    import paddle

    from paddlemix.engine.protocols import RowInput
    from paddlemix.models.qwen_vl.runner import QWenVLRunner
    from paddlemix.zoo import DEFAULT_MODEL_DIR

    group, counter = joined()
    model = model_of(DEFAULT_MODEL_DIR, None, group)
    runner, config = QWenVLRunner(model), model.config
    blocks = list(range(4))
    with paddle.no_grad():
        cache = runner.new_cache(len(blocks), 64)
        ids = np.arange(1, PROMPT + 1)
        token = int(runner.forward([RowInput(ids, 0, blocks, 1.0)], cache)[0].argmax())
        best = float("inf")
        for _ in range(3):
            counter.bytes, start = 0, time.perf_counter()
            for step in range(TOKENS):
                row = RowInput(np.array([token]), PROMPT + step, blocks, 1.0)
                token = int(runner.forward([row], cache)[0].argmax())
            best = min(best, time.perf_counter() - start)
    return {
        "parameters": sum(parameter.size for parameter in model.parameters()),
        "seconds": best,
        "bytes": counter.bytes / TOKENS,
        "formula": formula(config, group) if group.size > 1 else 0,
    }


def formula(config: Any, group: Any) -> int:
    """Bytes that a process hands to the others for a token in float32: sums behind attention, feed-forward layers and
    embeddings, and its logits, as many as the largest share has.
    """
    sums = 2 * config.num_hidden_layers + 1
    return 4 * (sums * config.hidden_size + -(-config.vocab_size // group.size))


def train() -> dict[str, Any]:
    """Forward and backward pass of one row without images, all weights trained."""
    import paddle

    from paddlemix.finetune.model import FinetuneModel
    from paddlemix.zoo import DEFAULT_MODEL_DIR

    group, counter = joined()
    model = FinetuneModel(model_of(DEFAULT_MODEL_DIR, None, group))
    model.train()
    for parameter in model.parameters():
        parameter.stop_gradient = False
    ids = paddle.arange(1, PROMPT + 1).unsqueeze(0)
    counter.bytes = 0
    model(input_ids=ids, labels=ids)["loss"].backward()
    return {"bytes": counter.bytes, "formula": step_formula(model.model.config, PROMPT, PROMPT - 1)}


def step_formula(config: Any, positions: int, targets: int) -> int:
    """Bytes that a process hands to the others in a training step in float32, without images or recomputation.

    Forward, the sums of :func:`formula` but for the logits; backward, those of the gradients in front of each attention
    and feed-forward layer; of each target the gradient in front of the head, and maximum, sum and own logit of the
    softmax.
    """
    sums = 4 * config.num_hidden_layers + 1
    return 4 * (positions * sums * config.hidden_size + targets * (config.hidden_size + 3))


def load(folder: str, quantization: str) -> dict[str, Any]:
    """Load this process's part of a model."""
    group, _ = joined()
    before, start = own_memory(), time.perf_counter()
    model = model_of(Path(folder), quantization, group)
    seconds = time.perf_counter() - start
    arrays = [*model.parameters(), *model.buffers()]
    return {
        "peak": PEAK.most - before,
        "weights": sum(array.size * array.element_size() for array in arrays if array is not None),
        "seconds": seconds,
    }


class _Peak:
    """The most memory of its own that this process has had, looked at by a thread: mapped files do not count."""

    most = 0

    def watch(self) -> None:
        import threading

        def look() -> None:
            while True:
                self.most = max(self.most, own_memory())
                time.sleep(0.02)

        threading.Thread(target=look, daemon=True).start()


PEAK = _Peak()


def own_memory() -> int:
    """Bytes that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def joined() -> tuple[Any, Any]:
    """The group of all processes, which counts the bytes that it is given."""
    from paddlemix.parallel.group import TensorParallelGroup
    from paddlemix.parallel.launch import launched
    from paddlemix.parallel.processes import join_processes

    PEAK.watch()
    join_processes("cpu")

    class Counting(TensorParallelGroup):
        bytes = 0

        def add_up(self, x: Any, *arguments: Any) -> Any:
            self.bytes += x.size * x.element_size()
            return super().add_up(x, *arguments)

        def gather(self, x: Any, widths: Any) -> Any:
            self.bytes += x.size // x.shape[-1] * max(widths) * x.element_size()
            return super().gather(x, widths)

    group = Counting.of_all() if launched() > 1 else Counting()
    return group, group


def model_of(folder: Path, quantization: str | None, group: Any) -> Any:
    from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel

    return QWenLMHeadModel.from_directory(folder, quantization=quantization, group=group)


def write_sparse(folder: Path, layers: float) -> None:
    """A checkpoint of the published shapes in bfloat16, all zeros, as one sparse safetensors file."""
    from paddlemix.checkpoint import layouts
    from paddlemix.models.qwen_vl.configuration import QWenVLConfig
    from paddlemix.models.qwen_vl.weights import WEIGHTS

    config = QWenVLConfig()
    fields = json.loads(config.to_json_string())
    fields["num_hidden_layers"] = round(config.num_hidden_layers * layers)
    fields["visual"]["layers"] = round(config.visual.layers * layers)
    (folder / "config.json").write_text(json.dumps(fields))
    header: dict[str, Any] = {"__metadata__": {layouts.MARKER: layouts.HF}}
    end = 0
    for name, shape in WEIGHTS.expected_shapes(fields, layouts.HF).items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        file.truncate(8 + len(content) + end)


if __name__ == "__main__":
    main()
