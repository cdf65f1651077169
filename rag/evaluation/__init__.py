"""Labelled sets, metrics, floor sweep, lift."""
