"""Written by the build: what it was made for."""

built_for_torch = "2.13.0"
