"""The numbers of a root for prometheus_client (the extra `prometheus`).

With it they are part of whatever a program of one's own exports::

    from prometheus_client import REGISTRY

    REGISTRY.register(RootCollector("/mnt/shared/flockpr"))
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from flockpr.cli.exposition import METRICS, Sample, collect
from flockpr.daemon.metrics import Page


class RootCollector(Collector):
    """Looks at a root whenever somebody asks; keeps nothing.

    Args:
        root: The root.
        lun: One logical unit; None: all.
    """

    def __init__(self, root: str, lun: str | None = None) -> None:
        self._root, self._lun = root, lun

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The names of the metrics, without a look at the share."""
        return (GaugeMetricFamily(name, text) for name, text in METRICS.items())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The numbers now.

        Raises:
            StoreError: The root cannot be read, or there is no such logical unit.
        """
        by_name: dict[str, list[Sample]] = {name: [] for name in METRICS}
        for one in collect(self._root, self._lun):
            by_name[one.name].append(one)
        for name, found in by_name.items():
            if found:
                family = GaugeMetricFamily(name, METRICS[name])
                for one in found:
                    family.add_sample(name, dict(one.labels), one.value)
                yield family


def negotiated(root: str, lun: str | None = None) -> Page:
    """What `flockpr metrics --listen` answers with: OpenMetrics for who asks for it."""
    registry = CollectorRegistry()
    registry.register(RootCollector(root, lun))

    def page(accept: str) -> tuple[str, bytes]:
        encode, kind = choose_encoder(accept)
        return kind, encode(registry)

    return page
