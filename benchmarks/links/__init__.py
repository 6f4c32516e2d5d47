"""Step times over slow links: ranks in network namespaces, joined by shaped veth pairs. Needs root on Linux.

    python -m benchmarks.links
    python -m benchmarks.links --links 100mbit 2.5gbit --all --model gpt --ranks 4
    python -m benchmarks.links --links 100mbit --model gpt --until-loss 300
    python -m benchmarks.links --change unshaped 100mbit unshaped --methods plain ours

Reading order: `namespaces` (the links), `__main__` (the processes), `worker` (what one rank measures), `contenders` (the
methods), `models`, `report`, `picture`.
"""
