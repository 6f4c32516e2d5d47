"""Mechanisms on a problem whose constants are known: floats and bytes sent until the gradient is small, at theory's step."""
