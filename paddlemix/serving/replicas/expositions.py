"""The metrics of all replicas in one text, each with the name of its replica."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

LABEL = "replica"


def merged(expositions: Mapping[str, bytes]) -> bytes:
    """One exposition of several; a metric that several have is there once, with the label ``replica``.

    Args:
        expositions: name of a replica -> its metrics as Prometheus' text.
    """
    registry = CollectorRegistry()
    registry.register(_Merged(expositions))
    return generate_latest(registry)


class _Merged:
    """All metrics of some expositions."""

    def __init__(self, expositions: Mapping[str, bytes]) -> None:
        self._expositions = expositions

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for replica, text in sorted(self._expositions.items()):
            for family in text_string_to_metric_families(text.decode()):
                whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    whole.add_sample(sample.name, {**sample.labels, LABEL: replica}, sample.value)
        yield from families.values()
