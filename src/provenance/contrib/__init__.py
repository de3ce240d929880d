"""Adapters: one module per framework, each imported by name, so that only what is used must be installed."""
