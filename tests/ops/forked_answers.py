"""A program for test_forking.py: answers, forks, and has children answer; prints the answers, one line each.

Arguments: the weights' form, then how the children come about: ``fork`` (and once more in a thread of the child),
``pool``, ``thread`` (forked by a thread of the parent) or ``sklearn`` (as fork, after other software started OpenMP).
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading


def start_openmp_after_scikit_learn() -> None:
    import paddle
    import sklearn.metrics  # noqa: F401 - it tells the OpenMP runtime of the process not to start anew after forks

    matrix = paddle.ones([300, 300])
    paddle.matmul(matrix, matrix).numpy()


def answer(_: int = 0) -> str:
    return loaded.new_session().ask("Where is the dog?", [DEMO_IMAGE]).text


def print_answer() -> None:
    print(answer(), flush=True)


def in_thread(function) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def fork() -> None:
    child = os.fork()
    if not child:
        print_answer()
        in_thread(print_answer)
        os._exit(0)
    os.waitpid(child, 0)


if __name__ == "__main__":
    quantization, how = sys.argv[1:]
    if how == "sklearn":
        start_openmp_after_scikit_learn()
    from paddlemix.inference import load_model
    from paddlemix.zoo import DEMO_IMAGE

    loaded = load_model(quantization=None if quantization == "float32" else quantization)
    print_answer()
    if how == "pool":
        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(*pool.map(answer, range(2)), sep="\n", flush=True)
    elif how == "thread":
        in_thread(fork)
    else:
        fork()
