"""Train a small GPT with two real processes, once per method, and compare bytes, loss and step time.

    python -m examples.demo            the comparison that the README shows (a few minutes on two cores)
    python -m examples.demo --help     other methods, optimizers and sizes

Reading order: `settings` (what is run), `launch` (the processes), `train` (what one rank does), `report` (the table).
"""
