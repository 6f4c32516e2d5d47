"""Network namespaces, one a rank: two joined by a veth pair, more by a bridge. Each rank's link is shaped by tbf (token bucket filter), in
both directions."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

INTERFACE = "e0"  # of every rank, in its own namespace
UNSHAPED = "unshaped"
CONGESTION_CONTROL = "cubic"  # asked for by route: the same queueing everywhere, whatever the host's default
_RATE = re.compile(r"\d+(\.\d+)?[kmg]?bit")


@dataclass(frozen=True)
class Network:
    """Names of the ranks' namespaces, and (namespace, device) of everything that sends into a rank's link."""

    namespaces: tuple[str, ...]
    senders: tuple[tuple[str, str], ...]

    def command(self, rank: int, *words: str) -> list[str]:
        """The command line that runs `words` inside the namespace of a rank."""
        return _inside(self.namespaces[rank], *words)

    def shape(self, rate: str) -> None:
        """Limit what each link carries, each way, to `rate`, in tc's notation (100mbit, 1gbit), or lift the limit (unshaped)."""
        for namespace, device in self.senders:
            if rate == UNSHAPED:
                tc = ["tc", "qdisc", "del", "dev", device, "root"]
                subprocess.run(_inside(namespace, *tc), check=False, capture_output=True, timeout=10)  # none to delete
            else:
                tbf = ["tbf", "rate", rate, "burst", "256k", "latency", "20ms"]
                _run(_inside(namespace, "tc", "qdisc", "replace", "dev", device, "root", *tbf))


def check_rate(rate: str) -> str:
    """Return `rate` if tbf will understand it, else raise ValueError."""
    if rate == UNSHAPED or _RATE.fullmatch(rate):
        return rate
    raise ValueError(f"expected a rate such as 100mbit or 1gbit, or {UNSHAPED!r}; found {rate!r}")


@contextmanager
def network(ranks: int) -> Iterator[Network]:
    """Make the namespaces, and remove them whatever happens. Their names carry our pid; no other is touched."""
    names = tuple(f"tsq{os.getpid()}w{rank}" for rank in range(ranks))
    switch = f"tsq{os.getpid()}s"
    made: list[str] = []
    try:
        for namespace in [*names, switch] if ranks > 2 else names:
            _run(["ip", "netns", "add", namespace])
            made.append(namespace)
        senders = _join_two(names) if ranks == 2 else _join_by_bridge(names, switch)
        for rank, namespace in enumerate(names):
            _configure(namespace, f"10.99.0.{rank + 1}")
        yield Network(names, tuple(senders))
    finally:
        for namespace in made:  # the veth ends go with them
            subprocess.run(["ip", "netns", "del", namespace], check=False, timeout=10)


def _join_two(names: tuple[str, ...]) -> list[tuple[str, str]]:
    first, second = names
    _run(["ip", "link", "add", INTERFACE, "netns", first, "type", "veth", "peer", "name", INTERFACE, "netns", second])
    return [(first, INTERFACE), (second, INTERFACE)]


def _join_by_bridge(names: tuple[str, ...], switch: str) -> list[tuple[str, str]]:
    senders = []
    _run(_inside(switch, "ip", "link", "add", "b0", "type", "bridge"))
    _run(_inside(switch, "ip", "link", "set", "b0", "up"))
    for rank, namespace in enumerate(names):
        port = f"p{rank}"
        _run(["ip", "link", "add", INTERFACE, "netns", namespace, "type", "veth", "peer", "name", port, "netns", switch])
        _run(_inside(switch, "ip", "link", "set", port, "master", "b0", "up"))
        senders += [(namespace, INTERFACE), (switch, port)]
    return senders


def _configure(namespace: str, address: str) -> None:
    _run(_inside(namespace, "ip", "address", "add", f"{address}/24", "dev", INTERFACE))
    for interface in ("lo", INTERFACE):
        _run(_inside(namespace, "ip", "link", "set", interface, "up"))
    route = f"10.99.0.0/24 dev {INTERFACE} proto kernel scope link src {address} congctl {CONGESTION_CONTROL}"
    _run(_inside(namespace, "ip", "route", "replace", *route.split()))


def _inside(namespace: str, *words: str) -> list[str]:
    return ["ip", "netns", "exec", namespace, *words]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10)
    if done.returncode != 0:
        raise RuntimeError(f"`{' '.join(command)}` failed: {done.stderr.strip() or done.stdout.strip()}")
