"""The learning rates in the course of a training: warm-up and decay."""

import math

from conf.training import ScheduleConfig


def factor_at(schedule: ScheduleConfig, step: int, progress: float) -> float:
    """What the learning rates are multiplied by in a step.

    The product of warm-up, which rises to 1 in its last step, and decay, from 1 to
    ``schedule.final``: linear, or half a cosine (Loshchilov & Hutter 2017, without restarts).

    Args:
        schedule: The configured one.
        step: Steps taken before it, over all epochs.
        progress: The share of all planned epochs before it, in [0, 1).
    """
    warm = min(1.0, (step + 1) / max(schedule.warmup_steps, 1))
    left = {
        "none": 1.0,
        "linear": 1 - progress,
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
    }[schedule.decay]
    return warm * (schedule.final + (1 - schedule.final) * left)
