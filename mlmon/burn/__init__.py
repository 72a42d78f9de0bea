"""Objectives in event time: what was good and bad by the time of the requests, and how fast budgets burn."""
