"""Two replicas of the bundled model on one machine, and what can happen to them; prints what was seen as JSON.

``python -m tests.serving.replicas.scenario [PART …]`` runs the program in a network namespace of its own where the
system lets it, and ends every process that it has started.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 240.0  # for anything to happen, on a busy machine
MODEL = "paddlemix/qwen-vl-scenes"
MAX_QUEUE = 8
INSIDE = "--inside"


def command() -> list[str]:
    """This program in a network of its own, where that is allowed; loopback is brought up there."""
    program = [sys.executable, "-m", "tests.serving.replicas.scenario", INSIDE]
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return program
    alone = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    return [*alone, *program] if subprocess.run([*alone, "true"], capture_output=True).returncode == 0 else program


class Program:
    """``paddlemix serve --replicas 2`` while it runs."""

    def __init__(self, *options: str) -> None:
        arguments = [sys.executable, "-m", "paddlemix", "serve", "--port", "0", "--replicas", "2", *options]
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    def count(self, start: str) -> int:
        return sum(line.startswith(start) for line in self.lines)

    def wait_for(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < end and self.process.poll() is None, "\n".join(self.lines[-40:])
            time.sleep(0.1)

    @property
    def url(self) -> str:
        line = next(line for line in self.lines if line.startswith("page: "))
        return line.removeprefix("page: ").rstrip("/")

    def processes(self) -> list[psutil.Process]:
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def replica_processes(self) -> list[psutil.Process]:
        name = MODEL.replace("/", "-")
        return [one for one in self.processes() if f"ServeReplica:paddlemix:{name}" in " ".join(one.cmdline())]

    def end(self) -> None:
        """End what is left of it; by id."""
        left = []
        with contextlib.suppress(psutil.NoSuchProcess):
            left = self.processes()
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait()


def body(text: str, **fields: object) -> dict:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 8, **fields}


LONG = {"max_tokens": 1500, "ignore_eos": True, "stream": True}


def chunks(response: httpx.Response) -> Iterator[object]:
    for line in response.iter_lines():
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


def ask(http: httpx.Client, request: dict, session: str | None = None) -> httpx.Response:
    headers = {} if session is None else {"X-Session-ID": session}
    return http.post("/v1/chat/completions", json=request, headers=headers)


def stream(
    http: httpx.Client, request: dict, begun: Callable[[str], None] = lambda _: None, session: str | None = None
) -> dict:
    """How a stream went: status, replica, number of chunks, the error that ended it."""
    headers = {} if session is None else {"X-Session-ID": session}
    with http.stream("POST", "/v1/chat/completions", json=request, headers=headers) as response:
        told = {
            "status": response.status_code,
            "replica": response.headers.get("x-replica"),
            "chunks": 0,
            "error": None,
        }
        if response.status_code != 200:
            response.read()
            return {**told, "body": response.json(), "retry": response.headers.get("retry-after")}
        for chunk in chunks(response):
            told["done"] = chunk == "[DONE]"
            if isinstance(chunk, dict):
                told["chunks"] += 1
                told["error"] = chunk.get("error", told["error"])
                if told["chunks"] == 3:
                    begun(told["replica"])
        return told


def ports(program: Program) -> dict[str, list[str]]:
    """Addresses on which each process listens, by its name."""
    found: dict[str, list[str]] = {}
    for one in program.processes():
        listening = [c.laddr for c in one.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        if listening:
            found.setdefault(one.name(), []).extend(f"{address.ip}:{address.port}" for address in listening)
    return found


def strangers(program: Program) -> dict[str, str]:
    """What Ray's ports say to a call without the token."""
    import grpc

    calls = {
        "gcs_server": "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
        "ServeReplica": "/ray.serve.ASGIService/HandleRequest",
    }
    found = {}
    for name, addresses in ports(program).items():
        method = next((method for part, method in calls.items() if part in name), None)
        for address in addresses if method is not None else ():
            port = address.rpartition(":")[2]
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                try:
                    channel.unary_unary(method)(b"", timeout=10)
                    found[f"{name}:{port}"] = "answered"
                except grpc.RpcError as error:
                    found[f"{name}:{port}"] = error.code().name
    return found


# ---------------------------------------------------------------- what happens


def idle(program: Program, seconds: float = 10.0) -> dict:
    """Memory of all processes, and the CPU time that they take while nobody asks."""
    processes = program.processes()

    def cpu() -> float:
        return sum(sum(one.cpu_times()[:2]) for one in processes if one.is_running())

    before = cpu()
    time.sleep(seconds)
    used = (cpu() - before) / seconds
    replicas = program.replica_processes()

    def mib(them: list[psutil.Process]) -> int:
        return sum(one.memory_full_info().uss for one in them) >> 20

    return {
        "processes": len(processes),
        "cpu_share": round(used, 3),
        "mib": mib(processes),
        "replica_mib": mib(replicas),
    }


def bodies(http: httpx.Client) -> dict:
    """Statuses and seconds of large requests; 48 MiB are allowed."""
    found = {}
    for mib in (40, 49):
        start = time.monotonic()
        answer = ask(http, body("Hello", padding="x" * (mib << 20)))
        found[f"{mib} MiB"] = [answer.status_code, round(time.monotonic() - start, 1)]
    return found


def affinity(http: httpx.Client) -> dict:
    """Ten conversations of four turns: which replica each turn went to, and how much of it was cached."""
    by_talk, cached = [], []
    for talk in range(10):
        messages = [{"role": "user", "content": f"Conversation {talk}. " + "Tell me about the bus and the dog. " * 8}]
        replicas = []
        for turn in range(4):
            answer = ask(http, {"model": MODEL, "messages": messages, "max_tokens": 16})
            assert answer.status_code == 200, answer.text
            replicas.append(answer.headers["x-replica"])
            if turn:
                cached.append(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])
            messages.append({"role": "assistant", "content": answer.json()["choices"][0]["message"]["content"]})
            messages.append({"role": "user", "content": "And what else?"})
        by_talk.append(replicas)
    kept = sum(replica == replicas[0] for replicas in by_talk for replica in replicas)
    by_header = {ask(http, body(f"Question {i}"), "one").headers["x-replica"] for i in range(8)}
    return {
        "requests": 4 * len(by_talk),
        "kept": kept,
        "replicas": len({replicas[0] for replicas in by_talk}),
        "least_cached": min(cached),
        "replicas_of_one_header": len(by_header),
    }


def backpressure(http: httpx.Client) -> dict:
    """More requests at once than there are places."""
    with ThreadPoolExecutor(40) as pool:
        told = list(pool.map(lambda i: stream(http, body(f"Question {i}", **{**LONG, "max_tokens": 300})), range(40)))
    refused = [one for one in told if one["status"] != 200]
    return {
        "answered": sum(one["status"] == 200 and one.get("done") is True and one["error"] is None for one in told),
        "refused": len(refused),
        "statuses": sorted({one["status"] for one in refused}),
        "codes": sorted({one["body"]["error"]["code"] for one in refused}),
        "with_retry_after": sum(one["retry"] is not None for one in refused),
    }


def some_of_each(http: httpx.Client, count: int) -> list[str]:
    """Sessions, so many for each of two replicas."""
    found: dict[str, list[str]] = {}
    for i in range(100):
        replica = ask(http, body("x", max_tokens=1), f"session {i}").headers["x-replica"]
        found.setdefault(replica, []).append(f"session {i}")
        if len(found) == 2 and min(map(len, found.values())) >= count:
            break
    return [name for names in found.values() for name in names[:count]]


def killed(program: Program, http: httpx.Client) -> dict:
    """A replica ends in the middle of its streams, while other requests are under way."""
    before = {one.pid for one in program.replica_processes()}
    begun = threading.Semaphore(0)
    sessions = some_of_each(http, 3)
    count = len(sessions)
    victim = program.replica_processes()[0]
    with ThreadPoolExecutor(16) as pool:
        streams = [
            pool.submit(stream, http, body(f"Stream {name}", **LONG), lambda _: begun.release(), name)
            for name in sessions
        ]
        for _ in range(count):
            assert begun.acquire(timeout=SECONDS)
        plain = [pool.submit(ask, http, body(f"Plain {i}", max_tokens=400, ignore_eos=True)) for i in range(6)]
        time.sleep(0.05)
        victim.kill()
        at = time.monotonic()
        told = [one.result() for one in streams]
        answers = [one.result() for one in plain]
    after_kill = [ask(http, body(f"Afterwards {i}")).status_code for i in range(6)]
    program.wait_for(lambda: http.get("/health/ready").json().get("replicas") == {MODEL: 2})
    seconds = time.monotonic() - at
    failed = [one for one in told if one["error"] is not None]
    return {
        "streams": count,
        "ended_with_error_event": len(failed),
        "error_codes": sorted({one["error"]["code"] for one in failed}),
        "all_done": all(one["done"] for one in told),
        "whole_streams": sum(one["error"] is None for one in told),
        "replicas_of_failed": len({one["replica"] for one in failed}),
        "plain_statuses": sorted(answer.status_code for answer in answers),
        "afterwards": after_kill,
        "new_one_after_seconds": round(seconds, 1),
        "new_processes": len({one.pid for one in program.replica_processes()} - before),
    }


def redeployed(program: Program, http: httpx.Client) -> dict:
    """All replicas are replaced under load."""
    old = {one.pid for one in program.replica_processes()}
    over = threading.Event()
    told: list[dict] = []

    def keep_asking(number: int) -> None:
        i = 0
        while not over.is_set():
            i += 1
            if i % 2:
                told.append(stream(http, body(f"{number} {i}", **{**LONG, "max_tokens": 100})))
            else:
                answer = ask(http, body(f"{number} {i}"))
                replica = answer.headers.get("x-replica")
                told.append({"status": answer.status_code, "error": None, "replica": replica, "text": answer.text})
            time.sleep(0.05)

    def gateway_is_new() -> bool:
        return not old & {one.pid for one in program.replica_processes()}

    serving = program.count("serving ")
    started = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(keep_asking, number) for number in range(3)]
        time.sleep(1.0)
        os.kill(program.process.pid, signal.SIGHUP)
        program.wait_for(lambda: program.count("serving ") > serving and gateway_is_new())
        seconds = time.monotonic() - started
        time.sleep(1.0)
        over.set()
        for worker in workers:
            worker.result()
    return {
        "requests": len(told),
        "lost": sum(one["status"] != 200 or one["error"] is not None for one in told),
        "how": [one for one in told if one["status"] != 200 or one["error"] is not None],
        "replicas": len({one["replica"] for one in told}),
        "seconds": round(seconds, 1),
    }


def stopped(program: Program, http: httpx.Client) -> dict:
    """SIGTERM in the middle of a stream."""
    everything = program.processes()
    begun = threading.Semaphore(0)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(stream, http, body("The last one", **LONG), lambda _: begun.release())
        assert begun.acquire(timeout=SECONDS)
        os.kill(program.process.pid, signal.SIGTERM)
        refused = None
        while not running.done() and refused is None:
            answer = ask(http, body("Too late"))
            refused = answer.json()["error"]["code"] if answer.status_code == 503 else None
        told = running.result()
    status = program.process.wait(SECONDS)
    _, alive = psutil.wait_procs(everything, timeout=30)
    return {
        "stream_whole": told["done"] and told["error"] is None,
        "refused_meanwhile": refused,
        "status": status,
        "left": [" ".join(one.cmdline())[:80] for one in alive],
    }


def metrics(http: httpx.Client) -> dict:
    text = http.get("/metrics").text
    replicas = set(re.findall(r'^paddlemix:engine_steps_total\{.*replica="([^"]+)"\} \d', text, re.MULTILINE))
    return {
        "replicas": len(replicas),
        "families_once": text.count("# TYPE paddlemix:engine_steps_total") == 1,
        "running": 'paddlemix:replicas_running{model_name="paddlemix/qwen-vl-scenes"} 2.0' in text,
    }


def latency(http: httpx.Client, count: int = 50) -> dict:
    """Milliseconds of a request that computes nothing, through proxy, gateway and replica."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        http.post("/tokenize", json={"model": MODEL, "prompt": "x"}).raise_for_status()
        times.append(1000 * (time.perf_counter() - start))
    return {"p50": round(sorted(times)[count // 2], 1), "p90": round(sorted(times)[count * 9 // 10], 1)}


PARTS: dict[str, Callable[[Program, httpx.Client], object]] = {
    "ready": lambda program, http: http.get("/health/ready").json(),
    "models": lambda program, http: [one["id"] for one in http.get("/v1/models").json()["data"]],
    "page": lambda program, http: http.get("/").status_code,
    "wrong_field": lambda program, http: ask(http, body("x", temperature=9)).json()["error"]["param"],
    "ports": lambda program, http: ports(program),
    "strangers": lambda program, http: strangers(program),
    "latency_ms": lambda program, http: latency(http),
    "bodies": lambda program, http: bodies(http),
    "affinity": lambda program, http: affinity(http),
    "metrics": lambda program, http: metrics(http),
    "idle": lambda program, http: idle(program),
    "backpressure": lambda program, http: backpressure(http),
    "killed": killed,
    "redeployed": redeployed,
    "stopped": stopped,
}


def run(parts: Sequence[str]) -> dict:
    """What was seen in some of the parts, in their order."""
    program = Program("--max_queue", str(MAX_QUEUE))
    seen: dict = {}
    try:
        program.wait_for(lambda: program.count("page: "))
        seen["ready_seconds"] = round(time.monotonic() - program.started, 1)
        with httpx.Client(base_url=program.url, timeout=SECONDS, trust_env=False) as http:
            for name in parts:
                seen[name] = PARTS[name](program, http)
    except BaseException:
        print("\n".join(program.lines[-60:]), json.dumps(seen), sep="\n", file=sys.stderr)
        raise
    finally:
        program.end()
    return seen


def main() -> int:
    """Run it in its namespace; the outcome on stdout."""
    arguments = sys.argv[1:]
    if INSIDE not in arguments:
        return subprocess.run([*command(), *arguments], cwd=ROOT).returncode
    print(json.dumps(run([name for name in arguments if name != INSIDE] or list(PARTS)), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
