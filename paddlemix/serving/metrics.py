"""Metrics for Prometheus: the names of vLLM's dashboards, under ``paddlemix:``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ..engine.request import EngineStats

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_TOKENS = tuple(1 << power for power in range(15))
_PREFIX = "paddlemix"

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What the server counts and measures; labels never hold a text of a client.

    Args:
        model_name: the label of all.
        stats: of the engine, asked for at each scrape.
        in_queue: requests that were let in and are not over.
        aborted: answers that were ended because the client left.
    """

    def __init__(
        self,
        model_name: str,
        stats: Callable[[], EngineStats],
        in_queue: Callable[[], int],
        aborted: Callable[[], int],
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(model_name, stats, in_queue, aborted))

        def histogram(name: str, help_: str, buckets: tuple[float, ...]) -> Histogram:
            metric = Histogram(f"{_PREFIX}:{name}", help_, ["model_name"], buckets=buckets, registry=self._registry)
            return metric.labels(model_name)

        self.time_to_first_token = histogram(
            "time_to_first_token_seconds", "From the arrival of a request to its first token.", _SECONDS
        )
        self.inter_token_latency = histogram(
            "inter_token_latency_seconds", "Between two tokens of an answer.", _STEP_SECONDS
        )
        self.e2e_request_latency = histogram(
            "e2e_request_latency_seconds", "From the arrival of a request to the end of its answer.", _SECONDS
        )
        self.request_preparation_time = histogram(
            "request_preparation_time_seconds", "Checking, tokenizing and decoding images.", _SECONDS
        )
        self.request_decode_time = histogram(
            "request_decode_time_seconds", "From the first token of an answer to its last.", _SECONDS
        )
        self.request_prompt_tokens = histogram("request_prompt_tokens", "Tokens of a prompt.", _TOKENS)
        self.request_generation_tokens = histogram("request_generation_tokens", "Tokens of an answer.", _TOKENS)
        self._success = Counter(
            f"{_PREFIX}:request_success",
            "Answers that ended well.",
            ["model_name", "finished_reason"],
            registry=self._registry,
        )
        self._rejected = Counter(
            f"{_PREFIX}:request_rejected",
            "Requests that were answered with an error, by its status.",
            ["model_name", "status"],
            registry=self._registry,
        )
        self._model_name = model_name

    def success(self, reason: str) -> None:
        """Count an answer that ended, by its finish reason."""
        self._success.labels(self._model_name, reason).inc()

    def rejected(self, status: int) -> None:
        """Count a request that was answered with an error."""
        self._rejected.labels(self._model_name, str(status)).inc()

    def exposition(self) -> bytes:
        """All of it as text."""
        return generate_latest(self._registry)


class _EngineCollector:
    """The engine's numbers, read when somebody asks."""

    def __init__(
        self,
        model_name: str,
        stats: Callable[[], EngineStats],
        in_queue: Callable[[], int],
        aborted: Callable[[], int],
    ) -> None:
        self._model_name = model_name
        self._stats = stats
        self._in_queue = in_queue
        self._aborted = aborted

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        blocks = stats.blocks_free + stats.blocks_cached + stats.blocks_owned
        gauges = {
            "num_requests_running": ("Requests that generate.", stats.running),
            "num_requests_waiting": ("Requests whose prompt is not computed yet.", stats.waiting),
            "num_requests_open": ("HTTP requests that were let in and are not over.", self._in_queue()),
            "kv_cache_usage_perc": ("Share of the cache's blocks in use.", stats.blocks_owned / max(blocks, 1)),
            "kv_cache_blocks_free": ("Blocks that hold nothing.", stats.blocks_free),
            "kv_cache_blocks_cached": ("Blocks kept for prompts that begin alike.", stats.blocks_cached),
        }
        counters = {
            "prefix_cache_queries": ("Prompt tokens looked up in the prefix cache.", stats.prefix_queries),
            "prefix_cache_hits": ("Prompt tokens found there.", stats.prefix_hits),
            "image_cache_queries": ("Images looked up in the feature cache.", stats.image_queries),
            "image_cache_hits": ("Images found there.", stats.image_hits),
            "vision_seconds": ("Seconds of encoding images.", stats.vision_seconds),
            "prompt_tokens": ("Tokens of prompts.", stats.prompt_tokens),
            "generation_tokens": ("Generated tokens.", stats.generation_tokens),
            "num_preemptions": ("Answers that gave up their blocks and were computed again.", stats.preemptions),
            "num_aborted_requests": ("Answers ended because the client had left.", self._aborted()),
            "engine_steps": ("Steps of the engine.", stats.steps),
        }
        for name, (help_, value) in gauges.items():
            gauge = GaugeMetricFamily(f"{_PREFIX}:{name}", help_, labels=["model_name"])
            gauge.add_metric([self._model_name], value)
            yield gauge
        for name, (help_, value) in counters.items():
            counter = CounterMetricFamily(f"{_PREFIX}:{name}", help_, labels=["model_name"])
            counter.add_metric([self._model_name], value)
            yield counter
