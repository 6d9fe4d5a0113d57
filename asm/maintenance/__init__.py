"""Retention and health: what `store.maintenance` runs. The stores and the command import it."""
