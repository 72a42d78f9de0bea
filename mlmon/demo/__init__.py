"""The demo: a real text service, real traffic, a real sidecar, and a wrong tokenizer deployed midway."""
