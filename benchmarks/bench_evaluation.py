"""What a run of a benchmark costs beside the engine itself, and whether its memory grows.

    python benchmarks/bench_evaluation.py [--model_name_or_path DIR] [--questions 400] [--rounds 5]
    python benchmarks/bench_evaluation.py --memory 10000

The first reads, prepares, asks and writes questions of easy-VQA as ``paddlemix evaluate run`` does, and hands the same
requests, prepared before, to an engine of the same sizes. The two take turns, each on a fresh engine; medians are
printed, of seconds and of the process's CPU seconds, which other load changes less. The second runs so many questions
and prints the resident memory after each tenth of them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from process_memory import resident_gigabytes

from paddlemix.engine.engine import Engine
from paddlemix.engine.request import Request, SamplingParams
from paddlemix.evaluation.answer_files import AnswerWriter
from paddlemix.evaluation.backends.engine import EngineBackend, engine_config
from paddlemix.evaluation.backends.prompting import Prompting
from paddlemix.evaluation.benchmarks import get_benchmark
from paddlemix.evaluation.records import Question
from paddlemix.evaluation.shards import Shard, by_image
from paddlemix.media.policy import ImagePolicy
from paddlemix.models.qwen_vl.runner import QWenVLRunner
from paddlemix.options import ModelOptions
from paddlemix.zoo import DEFAULT_MODEL

BENCHMARK = get_benchmark("easy-vqa")


class Pair:
    """A run and the bare engine over the same questions."""

    def __init__(self, model: str, questions: list[Question]) -> None:
        self.backend = EngineBackend(ModelOptions(model=model), engine_config("cpu"))
        self.questions = questions
        prompting = Prompting(self.backend.processor, BENCHMARK.generation, ImagePolicy())
        prepared = [prompting.prepare(question) for question in questions]
        tokenizer = self.backend.processor.tokenizer
        sampling = SamplingParams(
            max_tokens=BENCHMARK.generation.max_new_tokens, stop_token_ids=(tokenizer.eod_id, tokenizer.im_end_id)
        )
        self.requests = [Request(f"r{i}", item.ids, item.images, sampling) for i, item in enumerate(prepared)]

    def fresh_engine(self) -> Engine:
        """An engine that has computed nothing."""
        runner: QWenVLRunner = self.backend.engine._runner
        return Engine(runner, self.backend.processor.tokenizer, self.backend.engine.config)

    def engine_alone(self) -> tuple[float, float]:
        """Seconds and CPU seconds for the prepared requests."""
        import paddle

        engine = self.fresh_engine()
        began = now()
        with paddle.no_grad():
            for request in self.requests:
                engine.add(request)
            while engine.has_work():
                engine.step()
        return since(began)

    def run(self, folder: Path) -> tuple[float, float]:
        """The same from files of images to a file of answers."""
        self.backend.engine = self.fresh_engine()
        began = now()
        with AnswerWriter(folder, Shard(), {}, {}) as writer:
            for answer in self.backend.answers(self.questions, BENCHMARK.generation):
                writer.write(answer)
        return since(began)


def now() -> tuple[float, float]:
    """Seconds, and CPU seconds of this process."""
    return time.perf_counter(), time.process_time()


def since(began: tuple[float, float]) -> tuple[float, float]:
    """Seconds and CPU seconds since then."""
    seconds, cpu = now()
    return seconds - began[0], cpu - began[1]


def compare(model: str, count: int, rounds: int) -> None:
    """Print the medians of both, and of their ratio in each round."""
    pair = Pair(
        model, by_image(BENCHMARK.questions(Path(), "test"))[:count]
    )  # all questions of each image, as in a run
    times: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for _ in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            times.append((pair.engine_alone(), pair.run(Path(folder))))
    print("| | engine, questions/s | run, questions/s | run / engine, median of rounds |\n|---|---:|---:|---:|")
    for kind, name in enumerate(("elapsed", "CPU")):
        engine, run = zip(*((alone[kind], whole[kind]) for alone, whole in times[1:]))  # the first round warms up
        ratio = statistics.median(alone / whole for alone, whole in zip(engine, run))
        print(
            f"| {name} | {count / statistics.median(engine):.1f} | {count / statistics.median(run):.1f} | {ratio:.2f} |"
        )


def watch_memory(model: str, count: int) -> None:
    """Print the resident memory of a long run."""
    questions = by_image(BENCHMARK.questions(Path(), "train"))[:count]
    backend = EngineBackend(ModelOptions(model=model), engine_config("cpu"))
    print("| questions | resident MB |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder, AnswerWriter(Path(folder), Shard(), {}, {}) as writer:
        for number, answer in enumerate(backend.answers(questions, BENCHMARK.generation), start=1):
            writer.write(answer)
            if number % (count // 10) == 0:
                print(f"| {number:,} | {1000 * resident_gigabytes():.0f} |", flush=True)


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", default=DEFAULT_MODEL)
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, metavar="N", help="questions of a run whose memory is watched")
    options = parser.parse_args()
    if options.memory:
        watch_memory(options.model_name_or_path, options.memory)
    else:
        compare(options.model_name_or_path, options.questions, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
