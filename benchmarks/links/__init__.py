"""Step times over slow links: two ranks in two network namespaces, joined by a shaped veth pair. Needs root on Linux.

    python -m benchmarks.links
    python -m benchmarks.links --links 100mbit --methods plain fp16 ours

Reading order: `namespaces` (the link), `__main__` (the two processes), `worker` (what one rank measures), `report`.
"""
