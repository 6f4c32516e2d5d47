"""What each mechanism and compressor costs in loss for its bytes, on a small language model with four simulated workers.

    python -m benchmarks.frontier --json frontier.json            runs what is not in the file yet
    python -m benchmarks.frontier --json frontier.json --write    also puts tables and pictures into docs/

Reading order: `cases` (what is run), `simulate` (one run), `report` (tables and pictures).
"""
