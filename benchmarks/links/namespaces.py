"""Two network namespaces joined by a veth pair whose ends are shaped by tbf (token bucket filter)."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

INTERFACE = "e0"  # of either end, each in its own namespace
UNSHAPED = "unshaped"
CONGESTION_CONTROL = "cubic"  # asked for by route: the same queueing everywhere, whatever the host's default
_RATE = re.compile(r"\d+(\.\d+)?[kmg]?bit")


@dataclass(frozen=True)
class Pair:
    """Names of the two namespaces, and the address of INTERFACE in each."""

    namespaces: tuple[str, str]
    addresses: tuple[str, str] = ("10.99.0.1", "10.99.0.2")

    def command(self, end: int, *words: str) -> list[str]:
        """The command line that runs `words` inside the namespace of one end."""
        return ["ip", "netns", "exec", self.namespaces[end], *words]

    def shape(self, rate: str) -> None:
        """Limit what each end sends to `rate`, in tc's notation (100mbit, 1gbit), or lift the limit (unshaped)."""
        for end in (0, 1):
            if rate == UNSHAPED:
                tc = ["tc", "qdisc", "del", "dev", INTERFACE, "root"]
                subprocess.run(self.command(end, *tc), check=False, capture_output=True, timeout=10)  # none to delete
            else:
                tbf = ["tbf", "rate", rate, "burst", "256k", "latency", "20ms"]
                _run(self.command(end, "tc", "qdisc", "replace", "dev", INTERFACE, "root", *tbf))


def check_rate(rate: str) -> str:
    """Return `rate` if tbf will understand it, else raise ValueError."""
    if rate == UNSHAPED or _RATE.fullmatch(rate):
        return rate
    raise ValueError(f"expected a rate such as 100mbit or 1gbit, or {UNSHAPED!r}; found {rate!r}")


@contextmanager
def veth_pair() -> Iterator[Pair]:
    """Make the two namespaces, and remove them whatever happens. Their names carry our pid; no other is touched."""
    pair = Pair((f"tsq{os.getpid()}a", f"tsq{os.getpid()}b"))
    made: list[str] = []
    try:
        for namespace in pair.namespaces:
            _run(["ip", "netns", "add", namespace])
            made.append(namespace)
        first, second = pair.namespaces
        _run(["ip", "link", "add", INTERFACE, "netns", first, "type", "veth",
              "peer", "name", INTERFACE, "netns", second])
        for end, address in enumerate(pair.addresses):
            _run(pair.command(end, "ip", "address", "add", f"{address}/24", "dev", INTERFACE))
            for interface in ("lo", INTERFACE):
                _run(pair.command(end, "ip", "link", "set", interface, "up"))
            route = f"10.99.0.0/24 dev {INTERFACE} proto kernel scope link src {address} congctl {CONGESTION_CONTROL}"
            _run(pair.command(end, "ip", "route", "replace", *route.split()))
        yield pair
    finally:
        for namespace in made:  # the veth ends go with them
            subprocess.run(["ip", "netns", "del", namespace], check=False, timeout=10)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10)
    if done.returncode != 0:
        raise RuntimeError(f"`{' '.join(command)}` failed: {done.stderr.strip() or done.stdout.strip()}")
