"""How long the state machines run: short in the suite, MIXFS_MODEL times as long when that is set."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def settings_for(examples: int, steps: int) -> settings:
    """Settings of a machine; MIXFS_MODEL=20 gives twenty times the examples (and another seed each time)."""
    more = int(os.environ.get("MIXFS_MODEL", "0"))
    return settings(
        max_examples=examples * max(1, more), stateful_step_count=steps, deadline=None, derandomize=not more,
        database=None, suppress_health_check=list(HealthCheck), print_blob=False,
    )  # fmt: skip
