"""Drift judged: fields against their reference, evidence over time, one budget of pages."""
