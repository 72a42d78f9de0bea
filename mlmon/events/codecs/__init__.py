"""Records of a log to batches of events, and what is not an event to rejects."""
