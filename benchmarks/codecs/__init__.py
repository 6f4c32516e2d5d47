"""Every compressor beside torch's own ways of making a vector smaller: time, size, error. ``python -m benchmarks.codecs --help``."""
