"""Metrics of the watched services."""
