"""Retention and health checks: what `store.maintenance` runs. The stores and the command import it."""
