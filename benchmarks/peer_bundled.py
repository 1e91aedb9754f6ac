"""The bundled model's speed with the package of a given checkout, as the peer protocol wants it: a round for each line.

``bench_cpu.py`` runs it twice, on this checkout and on an older one, so that a change to the package can be measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Callable

NEW_TOKENS = 64
IMAGES = 4


def seconds(run: Callable[[], object], units: int, times: int) -> list[float]:
    result = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        result.append((time.perf_counter() - start) / units)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the bundled model for bench_cpu.py: a round for each line read.")
    parser.add_argument("--checkout", type=Path, default=Path(__file__).resolve().parents[1], help="whose paddlemix")
    options = parser.parse_args()
    if not (options.checkout / "paddlemix" / "zoo").is_dir():
        raise SystemExit(f"--checkout {options.checkout}: no paddlemix with a bundled model there")
    sys.path.insert(0, str(options.checkout))

    import paddle

    from paddlemix.inference import load_model
    from paddlemix.zoo import DEFAULT_MODEL

    loaded = load_model(DEFAULT_MODEL, device="cpu")
    model, processor = loaded.model, loaded.processor
    image = options.checkout / "paddlemix" / "zoo" / "demo.png"
    inputs = processor("Describe the picture with boxes.", str(image), return_tensors="pd")
    images = paddle.concat([inputs["images"]] * IMAGES)
    generate = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": -1}

    def encode() -> None:
        with paddle.no_grad():
            model.visual(images)

    def answer() -> None:
        model.generate(inputs["input_ids"], images=inputs["images"], **generate)

    work = {"bundled/token": (answer, NEW_TOKENS, 3), "bundled/image": (encode, IMAGES, 6)}
    for run, _, _ in work.values():
        run()
    print(f"paddlemix of {options.checkout}", flush=True)
    for _ in sys.stdin:
        print(json.dumps({name: seconds(*workload) for name, workload in work.items()}), flush=True)


if __name__ == "__main__":
    main()
